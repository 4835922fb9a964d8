"""Learning from the unpruned network: its logits (Hinton et al., arXiv 1503.02531), and its features where asked for."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecore.config.training import DistillationSettings
from prunecore.errors import ConfigError, TrainingError, listing
from prunecore.training.forward import call, main_output, shapes, tensors_in
from prunecore.types import Recipe

if TYPE_CHECKING:
    from prunecore.types import Task

_SMALL = 1e-12
# dims behind that of the channels in what a layer returns
_SPATIAL: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.Linear: 0,
}


@dataclass(frozen=True, eq=False)
class Teacher:
    """network: the unpruned one. recipe: how the student was cut from it, so that features of the surviving channels meet."""

    network: nn.Module
    settings: DistillationSettings = DistillationSettings()
    recipe: Recipe = Recipe()


class Distiller:
    """The loss of one training: the task's own, the teacher's logits, and features of the modules asked for."""

    def __init__(self, teacher: Teacher, student: nn.Module, task: Task, device: torch.device) -> None:
        self._settings = teacher.settings
        self._classes = task.num_classes is not None
        self._network = teacher.network.to(device).eval().requires_grad_(False)
        self._kept = _kept(teacher, student, device)
        self._student = student

    @contextmanager
    def watching(self) -> Iterator[_Features]:
        """Inside, features of the student's forward are kept; nothing is watched where none were asked for."""
        found = _Features()
        with found.of(self._student, self._kept):
            yield found

    def loss(self, own: Tensor, outputs: Any, features: _Features, inputs: Any) -> Tensor:
        """`(1 - weight) own + weight T² KL(teacher ‖ student)`, and `feature_weight` times the features' distance."""
        theirs = _Features()
        with torch.no_grad(), theirs.of(self._network, self._kept):
            told = call(self._network, inputs)
        silent = [name for name in self._kept if name not in theirs.outputs or name not in features.outputs]
        if silent:
            raise TrainingError(
                f"distillation.features: {silent[0]} has no part in the outputs of both networks; leave it out of the patterns"
            )
        mixed = (1 - self._settings.weight) * own + self._settings.weight * self._distance(outputs, told)
        if not self._kept:
            return mixed
        return mixed + self._settings.feature_weight * _feature_distance(features.outputs, theirs.outputs, self._kept)

    def _distance(self, outputs: Any, told: Any) -> Tensor:
        student, teacher = main_tensor(outputs), main_tensor(told)
        if student.shape != teacher.shape:
            raise TrainingError(f"distillation: the student gives {shapes(outputs)}, the teacher {shapes(told)}")
        if not self._classes or student.ndim < 2:
            return F.mse_loss(student, teacher)
        heat = self._settings.temperature
        mine, theirs = F.log_softmax(student / heat, dim=1), F.log_softmax(teacher / heat, dim=1)
        # mean over everything but the classes, so that segmentation weighs as classification does
        return (theirs.exp() * (theirs - mine)).sum(dim=1).mean() * heat**2


class _Features:
    """Outputs of modules by name, as a forward leaves them."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}

    @contextmanager
    def of(self, network: nn.Module, names: Mapping[str, Any]) -> Iterator[None]:
        modules = dict(network.named_modules())
        handles = [modules[name].register_forward_hook(self._keeping(name)) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keeping(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self.outputs[name] = output

        return keep


def main_tensor(outputs: Any) -> Tensor:
    """The predictions among what a network returns: the tensor itself, `logits`, `out`, or the first tensor."""
    first = next(tensors_in(main_output(outputs, "logits", "out")), None)
    if first is None:
        raise TrainingError(f"distillation: the network returns {type(outputs).__name__} without a tensor")
    return first


def _kept(teacher: Teacher, student: nn.Module, device: torch.device) -> dict[str, tuple[int, Tensor]]:
    """Modules whose outputs are compared: the dim of their channels, and those of the teacher's that the student has left."""
    cut = {s.tensor: s.kept for s in teacher.recipe.slices if s.dim == 0}
    layers = {n: m for n, m in student.named_modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))}
    found: dict[str, tuple[int, Tensor]] = {}
    for pattern in teacher.settings.features:
        names = fnmatch.filter(layers, pattern)
        if not names:
            raise ConfigError(
                f"distillation.features: {pattern!r} matches no convolution or linear layer; there are {listing(layers, most=8)}"
            )
        for name in names:
            kept = cut.get(f"{name}.weight", range(layers[name].weight.shape[0]))
            behind = next(dims for kind, dims in _SPATIAL.items() if isinstance(layers[name], kind))
            found[name] = (-1 - behind, torch.tensor(list(kept), device=device))
    return found


def _feature_distance(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], kept: Mapping[str, tuple[int, Tensor]]
) -> Tensor:
    """Mean squared distance of the surviving channels, relative to their power; the mean over modules."""
    parts = []
    for name, (dim, index) in kept.items():
        told = theirs[name].index_select(dim, index)
        parts.append(F.mse_loss(mine[name], told) / (told.pow(2).mean() + _SMALL))
    return torch.stack(parts).mean()
