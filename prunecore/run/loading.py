"""What a run starts from: the network, checked by one forward, and the task, split in two."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from prunecore.errors import ConfigError, ForwardError, ModelError, PluginError
from prunecore.run.admission import admit
from prunecore.surgery import copy_model
from prunecore.training import derive_seed, seeded, split, subset
from prunecore.types import ExampleInputs, LoadedModel, NasBuilder, Task


def load_model(hook: Any, loader: str, *, seed: int) -> LoadedModel:
    """What the loader behind `hook` gives; what it draws depends on `seed` alone, torch's generators stay as they were."""
    with seeded(derive_seed(seed, "model")):
        loaded: LoadedModel | None = hook.prune_load_model(builders=nas_builders(hook))
    if loaded is None:
        raise ConfigError(f"model: the loader {loader!r} gave no network")
    return dataclasses.replace(loaded, model=admit(loaded.model))


def nas_builders(hook: Any) -> dict[str, NasBuilder]:
    """All builders by `algname`; PluginError where two plugins offer the same."""
    found: dict[str, NasBuilder] = {}
    for offered in hook.prune_nas_builders():
        twice = sorted(found.keys() & offered.keys())
        if twice:
            raise PluginError(f"two plugins build networks of {twice[0]!r}; uninstall one of them")
        found |= offered
    return found


def check_forward(model: nn.Module, inputs: ExampleInputs) -> None:
    """One forward of a copy in eval mode; ForwardError where it fails, ModelError where a value is not finite."""
    copied = copy_model(model).eval()
    try:
        with torch.no_grad():
            outputs = copied(*inputs.args, **inputs.kwargs)
    except Exception as error:  # the network's own code may raise anything
        raise ForwardError.of(error, describe_inputs(inputs)) from error
    floats = [
        x
        for x in pytree.tree_leaves(outputs)
        if isinstance(x, torch.Tensor) and x.is_floating_point() and not x.is_meta
    ]
    if any(not bool(torch.isfinite(x).all()) for x in floats):
        raise ModelError(f"the network gives NaN or infinity on {describe_inputs(inputs)}; check its weights")


def describe_inputs(inputs: ExampleInputs) -> str:
    """`inputs (1, 3, 32, 32) float32, mask=(1, 32) bool`, for messages."""

    def spell(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            device = "" if value.device.type == "cpu" else f" on {value.device}"
            return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{device}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(spell, value))}]"
        return type(value).__name__ if not isinstance(value, (int, float, str, bool, type(None))) else repr(value)

    parts = [*map(spell, inputs.args), *(f"{key}={spell(value)}" for key, value in inputs.kwargs.items())]
    return f"inputs {', '.join(parts)}" if parts else "no inputs"


def load_task(hook: Any, *, fraction: float, seed: int) -> tuple[Task, Any]:
    """The task with its training data split in two: what trains stays in `task.train`, the rest chooses."""
    task: Task | None = hook.prune_task()
    if task is None:
        raise ConfigError("data: a run needs data to report what the cut costs; give --data, such as --data digits")
    fit, search_data = split(task, fraction, derive_seed(seed, "split"))
    return dataclasses.replace(task, train=fit, labels=None), search_data


def measured_on(search_data: Any, images: int | None, seed: int) -> Any:
    """So many images of the search split, the same ones for all that ask for as many; None: all of them."""
    return subset(search_data, images, derive_seed(seed, "subset"))
