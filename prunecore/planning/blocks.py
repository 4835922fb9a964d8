"""Blocks: what a NetAdapt-like search shrinks one at a time (arXiv 1804.03230). A block is a channel group, with those linked to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecore.planning.bundles import bundles_of
from prunecore.planning.limits import computed, limits_of
from prunecore.planning.ranking import rank
from prunecore.planning.search import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecore.planning.bundles import Bundle
    from prunecore.types import DependencyGraph, Indices, Target


@dataclass(frozen=True, eq=False)
class BlockCut:
    """One block, narrower. kept: channels of every group that this cuts (with `multiple_of`, more than the block's own).

    before, after: channels of its first group. size: what would be left of the target's measure. near: blocks that share a
    tensor with it, so that what a cut of one of them costs depends on the other.
    """

    block: str
    kept: Mapping[str, Indices]
    before: int
    after: int
    size: float
    near: tuple[str, ...] = ()


def block_cuts(
    graph: DependencyGraph,
    scores: Mapping[str, Any],
    target: Target,
    *,
    delta: float,
    whole: float,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> tuple[BlockCut, ...]:
    """For every block that can still shrink: the cut that removes `delta` of its channels, at least one allowed step.

    A cut that would pass the target is made smaller, as far as the target allows. whole: the measure that sizes count from.
    The other arguments as for `prunecore.planning.plan`. Blocks are in the order of the graph.
    """
    bundles = bundles_of(graph, limits_of(graph, target, frozen=frozen, widths=widths), align_all=target.align_all)
    free = [b for b in bundles if b.whole is None]
    space = Space(graph, free, computed(graph, target.measure))
    ranked = [rank(b, scores, target) for b in free]
    near = _neighbours(free)
    found = []
    for number, bundle in enumerate(free):
        if bundle.levels == 1:
            continue
        states = np.zeros((bundle.levels, len(free)), dtype=np.int64)
        states[:, number] = np.arange(bundle.levels)
        sizes = space.values(states) / whole
        level = _level(bundle, sizes, delta, 1.0 - target.reduce)
        closed = space.close(states[level][None])[0]
        kept = {n: stays for r, at in zip(ranked, closed, strict=True) for n, stays in r.kept(int(at)).items()}
        before = bundle.groups[0].channels
        cut = BlockCut(bundle.names[0], kept, before, int(bundle.ladder[level, 0]), float(sizes[level]), near[number])
        found.append(cut)
    return tuple(found)


def _level(bundle: Bundle, sizes: Any, delta: float, goal: float) -> int:
    """The first level at which `delta` of the channels are gone; or the first that reaches the goal, where that is before."""
    counts = bundle.ladder[:, 0]
    wanted = counts[0] * (1.0 - delta)
    gone = np.flatnonzero(counts[1:] <= wanted + 1e-9)
    level = int(gone[0]) + 1 if len(gone) else bundle.levels - 1
    there = np.flatnonzero(sizes[1:] <= goal + 1e-9)
    return min(level, int(there[0]) + 1) if len(there) else level


def _neighbours(bundles: Sequence[Bundle]) -> list[tuple[str, ...]]:
    """Names of the blocks that each shares a tensor with."""
    tensors = [{m.tensor for g in b.groups for m in g.members} for b in bundles]
    return [
        tuple(other.names[0] for j, other in enumerate(bundles) if j != i and tensors[i] & tensors[j])
        for i in range(len(bundles))
    ]
