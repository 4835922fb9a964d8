"""What was written is run beside the network itself, on the same random inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunecore.errors import ForwardError, ModelError
from prunecore.export.inputs import Batches, batches_of
from prunecore.run.admission import admit
from prunecore.run.loading import describe_inputs
from prunecore.surgery import copy_model
from prunecore.surgery.observe import leaves
from prunecore.training.forward import device_of
from prunecore.types import ExampleInputs

TOLERANCE = 1e-4
SIZES = (2, 1, 3)  # the first is the traced one: torch takes a batch of 1 for a constant
_DRAWS = 2

Runner = Callable[[ExampleInputs], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared with the network.

    max_abs_error: largest absolute difference of any output. batch_sizes: those that were compared, ascending. notes: what
    a reader of the file should know, such as a batch that is fixed.
    """

    path: Path
    max_abs_error: float
    batch_sizes: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Differs(ModelError):  # noqa: N818 - it says what the file does
    """What was written does not compute what the network computes."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network about to be exported: a copy in eval mode. obstacle: why its batch cannot be free; None where it can."""

    model: nn.Module
    batches: Batches
    obstacle: str | None

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that the network can be compared at."""
        return SIZES if self.obstacle is None else (self.batches.size,)


@dataclass(frozen=True)
class Agreement:
    """error: largest absolute difference. largest: magnitude of the outputs. moved: how far apart two random inputs put them."""

    error: float = 0.0
    largest: float = 0.0
    moved: float = 0.0

    def joined(self, other: Agreement) -> Agreement:
        return Agreement(max(self.error, other.error), max(self.largest, other.largest), max(self.moved, other.moved))


def subject_of(model: nn.Module, inputs: ExampleInputs) -> Subject:
    """A copy of `model`, tried at its own batch size (ForwardError where that fails) and at others."""
    own = copy_model(admit(model)).eval()
    batches = batches_of(inputs)
    own_size = batches.draw(batches.size, 0, device_of(own))
    try:
        runner(own)(own_size)
    except Exception as error:  # the network's own code may raise anything
        raise ForwardError.of(error, describe_inputs(own_size)) from error
    return Subject(own, batches, batches.fixed or _obstacle(own, batches))


def _obstacle(model: nn.Module, batches: Batches) -> str | None:
    """Why the network's own code takes no other batch than that of the example inputs."""
    for size in SIZES:
        try:
            runner(model)(batches.draw(size, 0, device_of(model)))
        except Exception as error:
            return f"the network fails on a batch of {size}: {reason(error)}"
    return None


def runner(model: Callable[..., Any]) -> Runner:
    """Calls a network, gives its output tensors on the CPU, in order."""

    def run(inputs: ExampleInputs) -> list[Tensor]:
        with torch.no_grad():
            return [t.detach().cpu() for t in leaves(model(*inputs.args, **inputs.kwargs))]

    return run


def compare(subject: Subject, written: Runner, size: int, *, device: torch.device | None = None) -> Agreement:
    """The network beside what was written, on random inputs of the batch `size`, drawn twice.

    device: where the network runs for it. Raises ModelError where what was written fails or gives other shapes.
    """
    place = device or subject.device
    model = subject.model if place == subject.device else copy_model(subject.model).to(place)
    found, before = Agreement(), None
    for seed in range(_DRAWS):
        inputs = subject.batches.draw(size, seed, place)
        expected = runner(model)(inputs)
        try:
            got = written(inputs)
        except Exception as error:  # of whatever runs the file
            raise ModelError(f"fails on a batch of {size}: {reason(error)}") from error
        shapes, expected_shapes = ([tuple(t.shape) for t in x] for x in (got, expected))
        if shapes != expected_shapes:
            raise ModelError(f"gives shapes {shapes} on a batch of {size}, the network gives {expected_shapes}")
        largest = max((_largest(t) for t in expected), default=0.0)
        moved = _apart(expected, before) if before is not None and len(before) == len(expected) else 0.0
        found, before = found.joined(Agreement(_apart(expected, got), largest, moved)), expected
    return found


def refuse(error: float, largest: float, tolerance: float, size: int) -> None:
    """Differs where `error` is above `tolerance`."""
    if not error <= tolerance:
        raise Differs(
            f"max abs difference {error:.1e} on a batch of {size} (outputs up to {largest:.1e}) is above the tolerance "
            f"{tolerance:g}; nothing was written; give --tolerance to allow it"
        )


def compared(
    subject: Subject, written: Runner, sizes: Sequence[int], tolerance: float, *, device: torch.device | None = None
) -> Agreement:
    """All `sizes`, each within `tolerance`, else ModelError."""
    found = Agreement()
    for size in sizes:
        one = compare(subject, written, size, device=device)
        refuse(one.error, one.largest, tolerance, size)
        found = found.joined(one)
    return found


def remarks(found: Agreement, tolerance: float) -> tuple[str, ...]:
    """A note where the comparison could not have failed."""
    if found.moved > tolerance:
        return ()
    return (
        f"two random inputs move the outputs by {found.moved:.2g} only, less than the tolerance: the comparison shows little",
    )


def _apart(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Largest absolute difference; equal infinities and NaN in the same place are no difference, other ones are infinite."""
    found = 0.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            return float("inf")
        x, y = (t if t.is_complex() else t.double() for t in (a, b))
        same = (x == y) | (torch.isnan(x) & torch.isnan(y))
        gap = torch.where(same, 0.0, (x - y).abs())
        if gap.numel():
            found = max(found, float(torch.nan_to_num(gap, nan=float("inf"), posinf=float("inf")).max()))
    return found


def _largest(tensor: Tensor) -> float:
    return float((tensor if tensor.is_complex() else tensor.double()).abs().max()) if tensor.numel() else 0.0


def reason(error: BaseException) -> str:
    """One line of what went wrong at the root of a chain of exceptions."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, ModelError):
        return str(root)
    text = re.sub(r"\x1b?\[\d+m", "", str(root))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0][:200]}" if lines else type(root).__name__
