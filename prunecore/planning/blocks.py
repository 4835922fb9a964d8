"""Blocks: what a NetAdapt-like search shrinks one at a time (arXiv 1804.03230). A block is a channel group, with those linked to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prunecore.planning.bundles import bundles_of
from prunecore.planning.limits import computed, limits_of
from prunecore.planning.ranking import rank
from prunecore.planning.search import Space

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecore.planning.bundles import Bundle
    from prunecore.types import DependencyGraph, Indices, Target


Levels = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class BlockCut:
    """One block, narrower. kept: channels of every group that this cuts (with `multiple_of`, more than the block's own).

    before, after: channels of its first group. size: what would be left of the target's measure.
    """

    block: str
    kept: Mapping[str, Indices]
    before: int
    after: int
    size: float


def block_cuts(
    graph: DependencyGraph,
    scores: Mapping[str, Any],
    target: Target,
    *,
    delta: float,
    whole: float,
    saving: float | None = None,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> tuple[BlockCut, ...]:
    """For every block that can still shrink: the cut that removes `delta` of its channels, at least one allowed step; with
    `saving`, instead, the smallest cut that removes so much of the measure (blocks that cannot give it are left out).

    A cut that would pass the target is made smaller, as far as the target allows. whole: the measure that sizes count from.
    The other arguments as for `prunecore.planning.plan`. Blocks are in the order of the graph.
    """
    bundles = bundles_of(graph, limits_of(graph, target, frozen=frozen, widths=widths), align_all=target.align_all)
    free = [b for b in bundles if b.whole is None]
    space = Space(graph, free, computed(graph, target.measure))
    ranked = [rank(b, scores, target) for b in free]
    found = []
    for number, bundle in enumerate(free):
        if bundle.levels == 1:
            continue
        states = np.zeros((bundle.levels, len(free)), dtype=np.int64)
        states[:, number] = np.arange(bundle.levels)
        sizes = space.values(states) / whole
        wanted = _narrower(bundle, delta) if saving is None else sizes <= sizes[0] - saving + 1e-9
        level = _level(wanted, sizes, 1.0 - target.reduce, at_most=saving is None)
        if level is None:
            continue
        closed = space.close(states[level][None])[0]
        kept = {n: stays for r, at in zip(ranked, closed, strict=True) for n, stays in r.kept(int(at)).items()}
        before = bundle.groups[0].channels
        cut = BlockCut(bundle.names[0], kept, before, int(bundle.ladder[level, 0]), float(sizes[level]))
        found.append(cut)
    return tuple(found)


def _narrower(bundle: Bundle, delta: float) -> Levels:
    """Of each level, whether `delta` of the channels are gone."""
    counts = bundle.ladder[:, 0]
    narrow: Levels = counts <= counts[0] * (1.0 - delta) + 1e-9
    return narrow


def _level(wanted: Levels, sizes: Any, goal: float, *, at_most: bool) -> int | None:
    """The first level below the whole that is wanted, or that reaches the goal where that is before; else the last one
    (at_most), or None."""
    found = np.flatnonzero((wanted | (sizes <= goal + 1e-9))[1:])
    if len(found):
        return int(found[0]) + 1
    return len(wanted) - 1 if at_most else None
