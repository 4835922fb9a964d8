"""Loss and metric of a network on a data set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prunecore.config.training import EvaluationSettings
from prunecore.errors import ModelError
from prunecore.training.data import batches
from prunecore.training.devices import resolve_device
from prunecore.training.forward import call, images_in, loss_of, modes_kept, moved, on_device, tensors_in
from prunecore.training.seeds import seeded
from prunecore.types import Score, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.utils.data import Dataset

_DEFAULT = EvaluationSettings()


def evaluate(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    settings: EvaluationSettings = _DEFAULT,
    *,
    device: str = "auto",
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
) -> Score:
    """The task's metric and mean loss of `model` on `dataset`, in eval mode. The model is left as it was.

    Raises ModelError where the network cannot take the data or returns NaN.
    """
    place = resolve_device(device)
    limit = None if settings.max_batches is None else settings.max_batches * settings.batch_size
    loader = batches(dataset, task, batch_size=settings.batch_size, images=limit, loading=settings)
    network = on_device(model, place)
    metric = task.metric()
    metric = metric.to(place) if hasattr(metric, "to") else metric
    total, seen = 0.0, 0
    with modes_kept(network), torch.no_grad(), seeded(0, place):
        network.eval()
        for number, (inputs, targets) in enumerate(loader, 1):
            inputs, targets = moved(inputs, place), moved(targets, place)
            outputs = call(network, inputs)
            loss = float(loss_of(task, outputs, targets))
            _check(network, task, outputs, loss)
            metric.update(outputs, targets)
            count = images_in(inputs)
            total, seen = total + loss * count, seen + count
            if on_event is not None:
                on_event({"event": "step", "stage": "evaluate", "step": number, "steps": len(loader)})
    return Score(name=task.metric_name, value=float(metric.compute()), loss=total / seen, images=seen)


def _check(model: nn.Module, task: Task, outputs: Any, loss: float) -> None:
    nan = any(t.is_floating_point() and bool(t.isnan().any()) for t in tensors_in(outputs))
    if nan or not math.isfinite(loss):
        what = "returns NaN" if nan else f"has the loss {loss}"
        raise ModelError(
            f"{type(model).__name__} {what} on the data of task {task.name!r}; expected finite numbers: "
            "check its weights and the normalisation of the data"
        )
