"""What a criterion is made of, so that one is a file of twenty lines.

A group's saliency is reduced over its members in one documented way (`mean_over_producers`): every member that speaks
for the group is judged by itself, and the mean is taken. Groups with a single producer (most) are therefore scored
exactly as the papers score a layer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from prunecore.errors import ConfigError, PluginError, PrunecoreError
from prunecore.types import Calibration, ChannelGroup, DependencyGraph, Member, Role, Task, member_matrix

Rule = Callable[[Tensor], Tensor]

# what speaks for a group: its producers, else the first of these roles that it has
_SPEAKERS: tuple[Role, ...] = ("producer", "norm", "other", "bias", "consumer")


class Matrices(Mapping[Member, Tensor]):
    """`matrices[member]`: float32 `(channels, features)`, gathered when it is asked for.

    A member whose tensor is missing is not in the mapping (evidence may cover a part of the members only).
    """

    def __init__(self, group: ChannelGroup, tensors: Mapping[str, Tensor]) -> None:
        self._members = tuple(m for m in group.members if m.tensor in tensors)
        self._tensors = tensors

    def __getitem__(self, member: Member) -> Tensor:
        if member not in self._members:
            raise KeyError(member)
        return member_matrix(self._tensors[member.tensor], member)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def speakers(group: ChannelGroup) -> tuple[Member, ...]:
    """The members that speak for `group`: its producers; without any, its norm, other, bias or consumer members."""
    for role in _SPEAKERS:
        found = tuple(m for m in group.members if m.role == role)
        if found:
            return found
    return ()


def mean_over_producers(group: ChannelGroup, matrices: Mapping[Member, Tensor], rule: Rule) -> Tensor:
    """Mean of `rule(matrices[member])` over the members that speak for `group`, float32 `(channels,)`.

    rule: `(channels, features) -> (channels,)`. Speakers that `matrices` lacks are passed over. Where none is left, all
    channels are equal (ones): the planner then keeps the lower indices.
    """
    found = [m for m in speakers(group) if m in matrices]
    if not found:
        return torch.ones(group.channels)
    total = rule(matrices[found[0]])
    for member in found[1:]:
        total = total + rule(matrices[member])
    return total / len(found)


def group_seed(seed: int, group: ChannelGroup) -> int:
    """A seed for this group alone: the same in every process, on every machine, and whatever other groups there are."""
    return zlib.crc32(f"{seed}:{group.name}".encode())


# ---------------------------------------------------------------- the stage


def score_all(
    graph: DependencyGraph, model: nn.Module, hook: Any, calibration: Calibration, seed: int
) -> dict[str, Tensor]:
    """Saliency of every group that may be cut, float32 `(channels,)` on the CPU, by the criterion behind `hook`.

    hook: pluggy's hook relay of the run. Raises PluginError where the criterion returns another shape or dtype,
    PrunecoreError where a saliency is not finite.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = [i.plugin_name.rpartition(":")[2] for i in reversed(hook.prune_score.get_hookimpls())]
    criterion = " or ".join(map(repr, names))
    if not criterion:
        raise ConfigError(
            "no criterion is loaded, expected one that implements prune_score; choose one with --criterion"
        )
    scores = {}
    for group in graph.groups:
        if group.frozen is None:
            weights = Matrices(group, tensors)
            with torch.no_grad():
                found = hook.prune_score(group=group, weights=weights, calibration=calibration, seed=seed)
            scores[group.name] = _checked(found, group, criterion)
    return scores


def _checked(found: object, group: ChannelGroup, criterion: str) -> Tensor:
    wanted = f"expected float32 of shape ({group.channels},)"
    if not isinstance(found, Tensor):
        raise PluginError(f"criterion {criterion}, group {group.name!r}: got {type(found).__name__}, {wanted}")
    if found.shape != (group.channels,) or found.dtype != torch.float32:
        got = f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
        raise PluginError(f"criterion {criterion}, group {group.name!r}: got {got}, {wanted}")
    bad = int((~torch.isfinite(found)).sum())
    if bad:
        raise PrunecoreError(
            f"criterion {criterion}, group {group.name!r}: {bad} of {group.channels} saliencies are not finite, "
            "expected finite numbers; are there NaN or infinite weights in it? load a sound network"
        )
    return found.detach().cpu()


# ---------------------------------------------------------------- data for criteria that calibrate


class CalibrationOptions(BaseModel):
    """batches: how many to use, None for one epoch. batch_size: images in each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batches: PositiveInt | None = None
    batch_size: PositiveInt = 64


def require_task(task: Task | None, criterion: str) -> Task:
    """The task, or a ConfigError that says what to give or what needs none."""
    if task is None:
        raise ConfigError(
            f"criterion {criterion!r} needs data, got no task; give one (--data SPEC, or task=... in Python), "
            "or choose a criterion that needs none: l1norm, l2norm, fpgm, bn_scale, random"
        )
    return task


def calibration_batches(
    task: Task, *, batch_size: int, limit: int | None, seed: int, device: torch.device
) -> Iterator[tuple[Any, Any]]:
    """Shuffled `(inputs, targets)` batches of the training data on `device`: one epoch, or its first `limit` batches.

    Augmentation draws from torch's global generator: iterate under `prunecore.training.seeded`.
    """
    from prunecore.training import batches
    from prunecore.training.forward import moved

    images = None if limit is None else limit * batch_size
    for inputs, targets in batches(task.train, task, batch_size=batch_size, seed=seed, images=images):
        yield moved(inputs, device), moved(targets, device)
