"""One `accelerate.Accelerator` a training. Its state is global, so ours is put in and taken out again."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator

    from prunecore.config.training import Precision

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_DEVICE = "ACCELERATE_TORCH_DEVICE"


def mixed_precision(precision: Precision, device: torch.device) -> str:
    """accelerate's word for the precision; `auto` is mixed on CUDA only, where it is faster."""
    if precision != "auto":
        return _MIXED[precision]
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def is_first_process() -> bool:
    """Whether this process writes files; under `accelerate launch` only one does."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def own_accelerator(device: torch.device, precision: Precision) -> Iterator[Accelerator]:
    """An Accelerator on `device`; under `accelerate launch` each process keeps the device that it was given.

    Whatever Accelerator the caller has is out of the way meanwhile, and back afterwards.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [s._shared_state for s in (PartialState, AcceleratorState, GradientState)]
    before = [dict(s) for s in states]
    for state in states:
        state.clear()
    try:
        with _environment(_DEVICE, str(device)):
            accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=mixed_precision(precision, device),
                step_scheduler_with_optimizer=False,
            )
        yield accelerator
    finally:
        for state, old in zip(states, before, strict=True):
            state.clear()
            state.update(old)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    old = os.environ.get(name)
    if not launched:
        os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = old
