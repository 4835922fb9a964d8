"""Learning rate and optimiser of a training, both functions of the settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from prunecore.config.training import RateSchedule, TrainingSettings

# where a one-cycle schedule starts, as a fraction of its top (1cycle: arXiv 1708.07120)
_FLOOR = 1 / 25


def rate_factor(schedule: RateSchedule, step: int, steps: int, *, warmup: float) -> float:
    """The rate of `step` (from 0) of `steps`, as a fraction of `lr`."""
    rising = round(warmup * steps)
    if step < rising:
        start = _FLOOR if schedule == "one-cycle" else 1 / rising
        return start + (1 - start) * step / rising if rising > 1 else 1.0
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser over the parameters that require a gradient; biases and norm parameters are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=fused
        )
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group of `optimizer` this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
