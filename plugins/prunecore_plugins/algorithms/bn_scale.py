"""BN scale: channels that their normalisation scales down go first (network slimming, arXiv:1708.06519)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prunecore
from prunecore.scoring import mean_over_producers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_NOT_SCALES = ("bias", "running_mean", "running_var", "num_batches_tracked")


class BNScale:
    """Saliency of a channel: the mean of |gamma| over the norms of its group, or its producers' L2 norm without any."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        scales = [weights[m].abs().mean(dim=1) for m in group.members if _is_scale(m)]
        if not scales:
            return mean_over_producers(group, weights, lambda w: w.norm(dim=1))
        return sum(scales[1:], scales[0]) / len(scales)


def _is_scale(member: prunecore.Member) -> bool:
    return member.role == "norm" and member.tensor.rpartition(".")[2] not in _NOT_SCALES
