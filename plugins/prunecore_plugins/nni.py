"""NNI 3.0's own metrics as criteria `nni.l2norm`, `nni.fpgm`, `nni.taylor`: for users who compare, and our tests' oracle.

NNI is archived; it is needed only where one of these is chosen (`pip install 'prunecore[nni]'`). A group is reduced
over its members as everywhere in prunecore; what is NNI's is the saliency of each member.
"""

from __future__ import annotations

import copy
import importlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
from prunecore.training.forward import call, device_of, images_in, loss_of, moved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def _nni(module: str) -> Any:
    """A module of NNI; ConfigError with the command that installs it where it is missing."""
    try:
        return importlib.import_module(f"nni.{module}")
    except ImportError as error:
        raise prunecore.ConfigError(
            f"the nni.* criteria need NNI 3.0, which cannot be imported ({error}); pip install 'prunecore[nni]'"
        ) from error


def _metric(name: str, matrix: Tensor, p: int) -> Tensor:
    """NNI's metric function `name` on one `(channels, features)` matrix, pruned along dim 0; it sums in float64, then float32."""
    space = SimpleNamespace(_scaler=_nni("compression.utils.scaling").Scaling([1], "back"))
    calculate = getattr(_nni("compression.pruning.tools"), name)
    found: Tensor = calculate(p, {"layer": {"weight": matrix.double()}}, {"layer": {"weight": space}})["layer"][
        "weight"
    ]
    return found.flatten().float()


# the layer types whose weights NNI prunes along their output, by exact type
_WRAPPED = {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}


class NNIL2Norm:
    """Saliency by the metric of NNI's L2NormPruner."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        return mean_over_producers(group, weights, lambda w: _metric("norm_metrics", w, 2))


class NNIFPGM:
    """Saliency by the metric of NNI's FPGMPruner (a Python loop over channels: minutes on wide networks)."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        return mean_over_producers(group, weights, lambda w: _metric("fpgm_metrics", w, 2))


class NNITaylor:
    """Saliency by NNI's TaylorPruner, run on a copy with a learning rate of zero, in eval mode.

    It sees the weights of the layer types that NNI wraps; groups that it does not reach are scored by the sum of w².
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
        task, device, options = require_task(task, "nni.taylor"), device_of(model), self._options
        with seeded(seed, device):
            loader = calibration_batches(
                task, batch_size=options.batch_size, limit=options.batches, seed=seed, device=torch.device("cpu")
            )
            batches = list(loader)
        wanted = {m.module for g in graph.groups if g.frozen is None for m in speakers(g)}
        modules = [name for name, m in model.named_modules() if name in wanted and type(m) in _WRAPPED]
        tensors = _taylor(model, modules, task, batches) if modules else {}
        return prunecore.Calibration(tensors=tensors, images=sum(images_in(x) for x, _ in batches))

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
        return mean_over_producers(group, evidence, lambda change: _metric("norm_metrics", change, 1))


def _taylor(model: nn.Module, modules: list[str], task: prunecore.Task, batches: list[Any]) -> dict[str, Tensor]:
    """What NNI's TaylorPruner collects over one pass, by the names of the weights, each in its weight's shape."""
    serializer, compression, pruning = _nni("common.serializer"), _nni("compression"), _nni("compression.pruning")
    model, device = copy.deepcopy(model).requires_grad_(True), device_of(model)

    def step(batch: Any, network: nn.Module) -> Tensor:
        x, y = moved(batch, device)
        return loss_of(task, call(network, x), y)

    def train(network: nn.Module, optimizer: Any, training_step: Any, *rest: Any, **more: Any) -> None:
        network.eval()
        for batch in batches:
            optimizer.zero_grad()
            training_step(batch, network).backward()
            optimizer.step()

    collected: dict[str, Tensor] = {}

    class Collector(pruning.TaylorPruner):  # type: ignore[name-defined, misc]
        """NNI forgets what it has gathered when it is done."""

        def _collect_data(self) -> Any:
            data = super()._collect_data()
            collected.update({f"{name}.weight": targets["weight"] for name, targets in data.items()})
            return data

    optimizer = serializer.trace(torch.optim.SGD)(model.parameters(), lr=0.0)
    evaluator = compression.TorchEvaluator(train, optimizer, step)
    config = [{"op_names": modules, "sparse_ratio": 0.5}]
    Collector(model, config, evaluator, training_steps=len(batches)).compress()
    return collected
