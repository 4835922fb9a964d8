"""Random: the control of every comparison. A criterion that does not beat it says nothing about the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import prunecore
from prunecore.scoring import group_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Random:
    """Saliency of a channel: uniform in [0, 1), fixed by the seed of the run and the name of the group."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(group_seed(seed, group))
        return torch.rand(group.channels, generator=generator)
