"""FPGM: filters near the geometric median of their layer are replaceable and go first (arXiv:1811.00250)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import prunecore
from prunecore.scoring import mean_over_producers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

BLOCK = 4096


class FPGM:
    """Saliency of channel i: the sum over j of ||w_i - w_j||₂, w being the weights that produce a channel."""

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        return mean_over_producers(group, weights, distance_sums)


def distance_sums(rows: Tensor) -> Tensor:
    """Sum of the Euclidean distances from each row to all rows, `(channels, features) -> (channels,)`.

    Distances are taken from differences, not from a matrix product (which is off by 2e-5). `pdist` computes each pair
    once and is ten times as fast as `cdist`. Memory: about two squares of BLOCK² floats, however many rows.
    """
    blocks = torch.split(rows, BLOCK)
    sums = [_within(block) for block in blocks]
    for i, left in enumerate(blocks):
        for j in range(i + 1, len(blocks)):
            between = torch.cdist(left, blocks[j], compute_mode="donot_use_mm_for_euclid_dist")
            sums[i] = sums[i] + between.sum(dim=1)
            sums[j] = sums[j] + between.sum(dim=0)
    return torch.cat(sums)


def _within(block: Tensor) -> Tensor:
    upper = torch.ones(len(block), len(block), dtype=torch.bool, device=block.device).triu(1)
    square = block.new_zeros(len(block), len(block)).masked_scatter_(upper, torch.pdist(block))
    return square.sum(dim=0) + square.sum(dim=1)
