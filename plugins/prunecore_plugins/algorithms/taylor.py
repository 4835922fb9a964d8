"""Taylor: channels whose removal changes the loss least, to first order, go first (arXiv:1906.10771)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

import prunecore
from prunecore.scoring import (
    CalibrationOptions,
    Matrices,
    calibration_batches,
    mean_over_producers,
    require_task,
    speakers,
)
from prunecore.training import seeded
from prunecore.training.forward import call, device_of, images_in, loss_of, modes_kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn


class Taylor:
    """Saliency of a channel: the sum of (w · dloss/dw)² over the weights that produce it, averaged over the batches.

    The square is taken of each weight by itself, in every batch. Weights and statistics are only read: the network runs
    in eval mode. Groups that no gradient reaches (a stem under `torch.no_grad`) are scored by the sum of w².
    """

    Options = CalibrationOptions

    def __init__(self, options: CalibrationOptions) -> None:
        self._options = options

    @prunecore.hookimpl
    def prune_calibrate(
        self,
        model: nn.Module,
        graph: prunecore.DependencyGraph,
        inputs: prunecore.ExampleInputs,
        task: prunecore.Task | None,
        seed: int,
    ) -> prunecore.Calibration:
        task = require_task(task, "taylor")
        wanted = {m.tensor for g in graph.groups if g.frozen is None for m in speakers(g)}
        parameters = {name: p for name, p in model.named_parameters() if name in wanted}
        device, options = device_of(model), self._options
        batches = calibration_batches(
            task, batch_size=options.batch_size, limit=options.batches, seed=seed, device=device
        )
        sums: dict[str, Tensor] = {}
        steps = images = 0
        with seeded(seed, device), _differentiable(model, list(parameters.values())):
            for x, y in batches:
                steps, images = steps + 1, images + images_in(x)
                for name, change in _squared_changes(task, model, parameters, x, y).items():
                    sums[name] = sums[name] + change if name in sums else change
        return prunecore.Calibration(tensors={name: total / steps for name, total in sums.items()}, images=images)

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        evidence = Matrices(group, calibration.tensors)
        if not any(m in evidence for m in speakers(group)):
            return mean_over_producers(group, weights, lambda w: w.square().sum(dim=1))
        return mean_over_producers(group, evidence, lambda change: change.sum(dim=1))


def _squared_changes(
    task: prunecore.Task, model: nn.Module, parameters: Mapping[str, Tensor], x: Any, y: Any
) -> dict[str, Tensor]:
    """(w · g)² of one batch for every parameter that the loss depends on, in the parameter's shape."""
    loss = loss_of(task, call(model, x), y)
    if not torch.isfinite(loss):
        raise prunecore.TrainingError(
            f"taylor: the loss is {loss.item()}, expected a finite number; check the network and its data"
        )
    if not loss.requires_grad:
        raise prunecore.ModelError(
            "taylor: the loss depends on no prunable weight (is the forward under no_grad?); use l2norm"
        )
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    # never in less than float32, in which small squares would be lost
    return {
        name: (p.detach() * g).square().to(torch.promote_types(p.dtype, torch.float32))
        for (name, p), g in pairs
        if g is not None
    }


@contextmanager
def _differentiable(model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Eval mode, with gradients for `parameters` alone; flags and modes are as before at the end."""
    flags = {p: p.requires_grad for p in model.parameters()}
    chosen = set(parameters)
    try:
        for p in flags:
            p.requires_grad_(p in chosen)
        with modes_kept(model), torch.enable_grad():
            model.eval()
            yield
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)
