"""Torch-Pruning's own global pruner, its ratio bisected until the MACs are those that are wanted."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunecore.measure import count
from prunecore.types import ExampleInputs, Task

IMPORTANCES = ("l2", "fpgm", "taylor")
MOST_TRIALS = 16
TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class PeerCut:
    """The cut nearest to the size that was wanted, and how many were made to find it."""

    model: nn.Module
    size: float
    trials: int


def peer_cut(
    model: nn.Module, inputs: Tensor, importance: str, size: float, gradients: Mapping[str, Tensor]
) -> PeerCut:
    """Global pruning where only the output layer (the last linear one) is left out; a fresh copy a trial.

    gradients: of the loss by parameter name, for `taylor`.
    """
    whole = count(model, ExampleInputs((inputs,))).macs
    low, high, trials = 0.0, 1.0, 0
    best: PeerCut | None = None
    while best is None or (trials < MOST_TRIALS and abs(best.size - size) > TOLERANCE):
        trials, ratio = trials + 1, (low + high) / 2
        cut = _pruned(model, inputs, importance, ratio, gradients)
        got = count(cut, ExampleInputs((inputs,))).macs / whole
        if best is None or abs(got - size) < abs(best.size - size):
            best = PeerCut(cut, got, trials)
        low, high = (ratio, high) if got > size else (low, ratio)
    return PeerCut(best.model, best.size, trials)


def mean_gradients(model: nn.Module, task: Task, batches: Iterable[Any]) -> dict[str, Tensor]:
    """The loss's gradient for every parameter, eval mode, averaged over the batches."""
    network, number = copy.deepcopy(model).eval(), 0
    for inputs, targets in batches:
        number += 1
        task.loss(network(inputs), targets).backward()
    return {n: p.grad / number for n, p in network.named_parameters() if p.grad is not None}


def _pruned(
    model: nn.Module, inputs: Tensor, importance: str, ratio: float, gradients: Mapping[str, Tensor]
) -> nn.Module:
    import torch_pruning as tp

    cut: Any = copy.deepcopy(model)
    for name, parameter in cut.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    kinds = {
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": lambda: tp.importance.FPGMImportance(p=2),
        "taylor": lambda: tp.importance.GroupTaylorImportance(),
    }
    tp.pruner.BasePruner(
        cut,
        inputs,
        importance=kinds[importance](),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[[m for m in cut.modules() if isinstance(m, nn.Linear)][-1]],
    ).step()
    for parameter in cut.parameters():
        parameter.grad = None
        parameter.requires_grad_(True)
    network: nn.Module = cut.eval()
    return network
