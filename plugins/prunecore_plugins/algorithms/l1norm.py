"""L1 norm: filters with small weights go first (arXiv:1608.08710)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prunecore
from prunecore.scoring import mean_over_producers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class L1Norm:
    """Saliency of a channel: the sum of |w| over the weights that produce it."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        return mean_over_producers(group, weights, lambda w: w.abs().sum(dim=1))
