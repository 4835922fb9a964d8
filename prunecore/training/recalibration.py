"""BatchNorm statistics estimated anew: the cheapest repair of a cut network (EagleEye, arXiv 2007.02491)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunecore.config.training import RecalibrationSettings
from prunecore.training.data import batches, length_of
from prunecore.training.devices import resolve_device
from prunecore.training.forward import call, device_of, modes_kept, moved
from prunecore.training.seeds import derive_seed, seeded

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from prunecore.types import Task

_DEFAULT = RecalibrationSettings()


def recalibrate(
    model: nn.Module,
    dataset: Dataset[Any],
    task: Task,
    settings: RecalibrationSettings = _DEFAULT,
    *,
    device: str = "auto",
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` whose BatchNorm running statistics are the plain mean over whole batches of `dataset`.

    `settings.images` images, rounded down to whole batches (so that every batch weighs the same), drawn by `seed`. Only
    the BatchNorms are in train mode meanwhile; weights, modes and momenta are those of `model`.
    """
    network = copy.deepcopy(model)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return network
    available = min(settings.images, length_of(dataset, f"the data set of task {task.name!r}"))
    size = min(settings.batch_size, available)
    order = derive_seed(seed, "recalibrate")
    loader = batches(dataset, task, batch_size=size, images=available // size * size, seed=order, loading=settings)
    place, home = resolve_device(device), device_of(model)
    network.to(place)
    momenta = [m.momentum for m in norms]
    with modes_kept(network), torch.no_grad(), seeded(order, place):
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the cumulative mean
            norm.training = True
        for inputs, _ in loader:
            call(network, moved(inputs, place))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.to(home)
