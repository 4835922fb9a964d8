"""L2 norm: filters of small Euclidean length go first (as NNI's L2NormPruner; the L1 sibling is arXiv:1608.08710)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prunecore
from prunecore.scoring import mean_over_producers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class L2Norm:
    """Saliency of a channel: the square root of the sum of w² over the weights that produce it."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        return mean_over_producers(group, weights, lambda w: w.norm(dim=1))
