"""Bundles: channel groups that links tie together, each with the ladder of counts that it may keep.

A group alone is a bundle of one. The ladder is a table: a row for each allowed state, a column for each group, from the
widest state down; partitions, links, alignment, floors are all in it, so that what comes after cannot break them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunecore.errors import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecore.planning.limits import Limits
    from prunecore.types import ChannelGroup, DependencyGraph, Indices, Partition


@dataclass(frozen=True, eq=False)
class Bundle:
    """groups: in the order of the graph. ladder, shape `(levels, groups)`: kept counts, level 0 first. whole: why
    nothing of it may go (then the ladder has one level). uneven: level 0 is not aligned as the others are."""

    groups: tuple[ChannelGroup, ...]
    ladder: Indices
    whole: str | None = None
    uneven: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    @property
    def levels(self) -> int:
        return len(self.ladder)


def bundles_of(graph: DependencyGraph, limits: Limits, *, align_all: bool) -> tuple[Bundle, ...]:
    """All bundles, in the order of their first groups."""
    groups = {g.name: g for g in graph.groups}
    bundles = [_bundle([groups[n] for n in r], r, limits, align_all=align_all) for r in _linked(graph, groups)]
    return tuple(_alignable(graph, bundles, limits.multiple_of))


def _bundle(groups: Sequence[ChannelGroup], ratios: dict[str, int], limits: Limits, *, align_all: bool) -> Bundle:
    members = tuple(groups)
    full = np.array([g.channels for g in members], dtype=np.int64)
    ratio = np.array([ratios[g.name] for g in members], dtype=np.int64)
    whole = _reason(members, ratio, limits)
    if whole is None:
        ladder = _ladder(members, ratio, limits, align_all=align_all)
        if len(ladder) > 1 or (ladder[0] != full).any():
            steps = np.array([limits.step[g.name] for g in members])
            return Bundle(members, ladder, uneven=bool((ladder[0] % steps).any()))
        whole = "limits: no smaller width is allowed"
    return Bundle(members, full[None], whole)


def _reason(groups: tuple[ChannelGroup, ...], ratio: Indices, limits: Limits) -> str | None:
    """Why the bundle stays whole, or None."""
    for group in groups:
        if group.name in limits.whole:
            told = limits.whole[group.name]
            return told if len(groups) == 1 else f"{told} (linked: {listing((g.name for g in groups), most=4)})"
    full = np.array([g.channels for g in groups], dtype=np.int64)
    units = full // np.maximum(ratio, 1)
    if (units * ratio != full).any() or (units != units[0]).any():
        return f"links: the widths of {listing((g.name for g in groups), most=4)} are not in the linked proportion"
    for group in groups:
        if group.partitions and _cells(group.partitions) is None:
            return f"partitions: those of {group.name} cross so that no equal cut exists"
    return None


def _ladder(groups: tuple[ChannelGroup, ...], ratio: Indices, limits: Limits, *, align_all: bool) -> Indices:
    """Allowed states from the widest down. Without any allowed cut: one row, the widths as they are."""
    full = np.array([g.channels for g in groups], dtype=np.int64)
    units = np.arange(full[0] // ratio[0], 0, -1, dtype=np.int64)
    counts = units[:, None] * ratio
    allowed = np.ones(len(units), dtype=bool)
    aligned = np.ones(len(units), dtype=bool)
    for i, group in enumerate(groups):
        cells = cells_of(group)
        parts = int(cells.max()) + 1
        rounds = (full[i] - counts[:, i]) // parts
        allowed &= (full[i] - counts[:, i]) % parts == 0
        # at least one channel stays in every cell
        allowed &= rounds < max(int(np.bincount(cells).min()), 1)
        allowed &= (counts[:, i] >= limits.floor[group.name]) | (counts[:, i] == full[i])
        aligned &= counts[:, i] % limits.step[group.name] == 0
    cut = np.flatnonzero(allowed & aligned)
    if not len(cut):
        return full[None]
    if align_all or cut[0] == 0:
        return np.asarray(counts[cut])
    return np.asarray(counts[np.concatenate([[0], cut])])


# ---------------------------------------------------------------- widths that several bundles make up


def dims_of(bundles: Sequence[Bundle], *, producers: bool) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """(tensor, dim) of every member (or producer) -> its parts: number of the bundle, how much of the uncut dim is its."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, bundle in enumerate(bundles):
        for group in bundle.groups:
            for member in group.members:
                if member.role == "producer" or not producers:
                    found.setdefault((member.tensor, member.dim), []).append((number, member.index.size))
    return found


def _alignable(graph: DependencyGraph, bundles: list[Bundle], multiple_of: int | None) -> list[Bundle]:
    """Bundles stay whole where the rest of a producer's width is uneven and may not be cut: no cut could end aligned."""
    if multiple_of is None:
        return bundles
    sizes = {t.name: [d(graph.widths) for d in t.dims] for t in graph.tensors}
    dims = dims_of(bundles, producers=True)
    found = list(bundles)
    changed = True
    while changed:
        changed = False
        for (tensor, dim), parts in dims.items():
            free = [(number, size) for number, size in parts if found[number].whole is None]
            rest = sizes[tensor][dim] - sum(size for _, size in free) if tensor in sizes else 0
            if not free or rest % multiple_of == 0:
                continue
            changed = True
            reason = f"multiple_of {multiple_of}: {rest} positions of {tensor} that may not be cut are no multiple"
            for number, _ in free:
                groups = found[number].groups
                found[number] = Bundle(groups, np.array([[g.channels for g in groups]], dtype=np.int64), reason)
    return found


# ---------------------------------------------------------------- partitions


def cells_of(group: ChannelGroup) -> Indices:
    """The cell of each channel, shape `(channels,)`: channels that are in the same part of every partition."""
    cells = _cells(group.partitions) if group.partitions else None
    return np.zeros(group.channels, dtype=np.int64) if cells is None else cells


def _cells(partitions: tuple[Partition, ...]) -> Indices | None:
    """Cells of crossing partitions; None where one channel of each cell is not an equal cut of every partition."""
    parts = np.stack([p.part for p in partitions])
    unique, cells = np.unique(parts, axis=1, return_inverse=True)
    for row, partition in zip(unique, partitions, strict=True):
        in_part = np.bincount(row, minlength=partition.parts)
        if (in_part != in_part[0]).any():
            return None
    return cells.ravel().astype(np.int64)


# ---------------------------------------------------------------- links


def _linked(graph: DependencyGraph, groups: dict[str, ChannelGroup]) -> list[dict[str, int]]:
    """Groups merged along links, each with its channels per common unit; a contradiction gives the ratio 0."""
    home = {name: name for name in groups}
    merged = {name: {name: 1} for name in groups}
    for link in graph.links:
        pairs = list(zip(link.groups, link.ratios, strict=True))
        known = [(name, ratio) for name, ratio in pairs if name in groups]
        for name, ratio in known:
            _merge(home, merged, known[0], (name, ratio))
        if len(known) < len(pairs) and known:
            # a partner that is no group cannot change, so nothing of this may
            _scale(merged[home[known[0][0]]], 0)
    order = {name: i for i, name in enumerate(groups)}
    found = [dict(sorted(ratios.items(), key=lambda item: order[item[0]])) for ratios in merged.values()]
    return sorted(found, key=lambda ratios: order[next(iter(ratios))])


def _merge(
    home: dict[str, str], merged: dict[str, dict[str, int]], left: tuple[str, int], right: tuple[str, int]
) -> None:
    """Demand that for one integer x `kept[left] = ratio of left * x` and the same on the right.

    In a set of merged groups `kept[g] = ratios[g] * unit`, so x is `ratios[g] / ratio` units: made whole first.
    """
    for name, ratio in (left, right):
        own = merged[home[name]]
        _scale(own, ratio // math.gcd(own[name], ratio))
    (a, ratio_a), (b, ratio_b) = left, right
    first, second = merged[home[a]], merged[home[b]]
    x_first, x_second = first[a] // ratio_a, second[b] // ratio_b
    if first is second:
        if x_first != x_second:
            _scale(first, 0)
        return
    common = math.lcm(x_first, x_second)
    _scale(first, common // x_first if x_first else 0)
    _scale(second, common // x_second if x_second else 0)
    del merged[home[b]]
    home.update(dict.fromkeys(second, home[a]))
    first.update(second)


def _scale(ratios: dict[str, int], factor: int) -> None:
    for name in ratios:
        ratios[name] *= factor
