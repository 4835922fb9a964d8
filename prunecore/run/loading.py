"""What a run starts from: the network, checked by one forward, and the task, split in two."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from prunecore.errors import ConfigError, ModelError
from prunecore.surgery import copy_model
from prunecore.training import derive_seed, seeded, split
from prunecore.types import ExampleInputs, LoadedModel, Task


def load_model(hook: Any, loader: str, *, seed: int) -> LoadedModel:
    """What the loader behind `hook` gives; what it draws depends on `seed` alone, torch's generators stay as they were."""
    with seeded(derive_seed(seed, "model")):
        loaded: LoadedModel | None = hook.prune_load_model()
    if loaded is None:
        raise ConfigError(f"model: the loader {loader!r} gave no network")
    return loaded


def check_forward(model: nn.Module, inputs: ExampleInputs) -> None:
    """One forward of a copy in eval mode; ModelError with the shapes where it fails or gives a value that is not finite."""
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    shapes = [tuple(x.shape) for x in leaves if isinstance(x, torch.Tensor)]
    try:
        with torch.no_grad():
            outputs = copy_model(model).eval()(*inputs.args, **inputs.kwargs)
    except Exception as error:  # the network's own code may raise anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the network does not run on inputs of shape {shapes}: {first}; give example inputs that fit (model.size or model.inputs)"
        ) from error
    floats = [x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if any(not bool(torch.isfinite(x).all()) for x in floats):
        raise ModelError(f"the network gives NaN or infinity on inputs of shape {shapes}; check its weights")


def load_task(hook: Any, *, fraction: float, seed: int) -> tuple[Task, Any]:
    """The task with its training data split in two: what trains stays in `task.train`, the rest chooses."""
    task: Task | None = hook.prune_task()
    if task is None:
        raise ConfigError("data: a run needs data to report what the cut costs; give --data, such as --data digits")
    fit, search_data = split(task, fraction, derive_seed(seed, "split"))
    return dataclasses.replace(task, train=fit, labels=None), search_data
