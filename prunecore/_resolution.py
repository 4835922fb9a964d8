"""Ties, freezes and constraints over labels -> channels, channel groups, partitions and links."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunecore.types import Affine, Indices, Link, Member, Partition, Role


@dataclass(frozen=True)
class Slot:
    """One dim of one tensor; its labels are `offset … offset + size - 1`."""

    tensor: str
    dim: int
    size: int
    offset: int
    is_parameter: bool

    @property
    def labels(self) -> Indices:
        return np.arange(self.offset, self.offset + self.size, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Constraint:
    """A demand for equal parts that does not hold by itself.

    rows: the distinct parts as classes, -1 where the position always stays; types: for each row the groups in it, in
    order of appearance; part_of: the row of each class; repeats: how often the class stands there.
    """

    classes: Indices
    part_of: Indices
    repeats: Indices
    types: tuple[tuple[int, ...], ...]
    reason: str


def components(count: int, left: Indices, right: Indices) -> Indices:
    """Connected components of `count` nodes; each node gets the smallest node of its component, shape `(count,)`."""
    parent: Indices = np.arange(count, dtype=np.int64)
    while True:
        a, b = parent[left], parent[right]
        open_edges = a != b
        if not open_edges.any():
            return parent
        left, right = left[open_edges], right[open_edges]
        a, b = a[open_edges], b[open_edges]
        # every root hooks to its smallest neighbour, then all paths are flattened by pointer jumping
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, jumped := parent[parent]):
            parent = jumped


class Resolution:
    """Labels -> classes (channels) -> groups. Built once; constraints that cannot be kept freely are tied by position."""

    def __init__(
        self,
        size: int,
        slots: Sequence[Slot],
        *,
        ties: Sequence[tuple[Indices, Indices]],
        frozen: Sequence[tuple[Indices, str]],
        parts: Sequence[tuple[Indices, str, bool]],
    ) -> None:
        self._size, self._slots, self._frozen, self._parts = size, slots, list(frozen), parts
        self._slot_of = np.full(size, -1, dtype=np.int64)
        tensors = sum(s.size for s in slots)
        self._slot_of[:tensors] = np.repeat(np.arange(len(slots)), [s.size for s in slots])
        empty = np.empty(0, dtype=np.int64)
        left = np.concatenate([a for a, _ in ties] or [empty])
        right = np.concatenate([b for _, b in ties] or [empty])
        roots = components(size, left, right)
        while True:
            self._classify(roots)
            clashes = self._resolve()
            if not clashes:
                break
            # fall back: position i of every part is one channel; what faces a position without a label stays
            a = np.concatenate([np.broadcast_to(rows[:1], rows[1:].shape).ravel() for rows, _ in clashes])
            b = np.concatenate([rows[1:].ravel() for rows, _ in clashes])
            for rows, reason in clashes:
                stuck = rows[:, (rows < 0).any(axis=0)]
                if stuck.size:
                    self._frozen.append((stuck[stuck >= 0], reason))
            both = (a >= 0) & (b >= 0)
            roots = components(size, np.concatenate([np.arange(size), a[both]]), np.concatenate([roots, b[both]]))

    # ------------------------------------------------------------ classes and groups

    def _classify(self, roots: Indices) -> None:
        _, inverse = np.unique(roots, return_inverse=True)
        self.class_of = inverse.ravel().astype(np.int64)
        count = int(self.class_of.max()) + 1 if self._size else 0
        self._class_reason = np.full(count, len(self._frozen), dtype=np.int64)
        if self._frozen:
            labels = np.concatenate([a for a, _ in self._frozen])
            numbers = np.repeat(np.arange(len(self._frozen)), [a.size for a, _ in self._frozen])
            # in descending order of the reason's number, so that the first reason is written last
            self._class_reason[self.class_of[labels[::-1]]] = numbers[::-1]
        self._coded = [self._code(rows) for rows, _, _ in self._parts]
        self._spread_frozen()
        self._group_classes(count)

    def _code(self, rows: Indices) -> Indices:
        return np.where(rows >= 0, self.class_of[rows], -1)

    def _free(self, coded: Indices) -> Indices:
        """The classes in `coded` that may go, -1 elsewhere."""
        stays = (coded < 0) | (self._class_reason[coded] < len(self._frozen))
        return np.where(stays, -1, coded)

    def _spread_frozen(self) -> None:
        """Parts that must keep equal counts are frozen together."""
        changed = True
        while changed:
            changed = False
            for number, coded in enumerate(self._coded):
                free = self._free(coded)
                whole = (free < 0).all(axis=1)
                if not whole.any() or whole.all():
                    continue
                reasons = self._class_reason[coded[whole][coded[whole] >= 0]]
                if not reasons.size:
                    self._frozen.append((np.empty(0, dtype=np.int64), self._parts[number][1]))
                    self._class_reason[self._class_reason == len(self._frozen) - 1] = len(self._frozen)
                    reasons = np.array([len(self._frozen) - 1])
                self._class_reason[free[free >= 0]] = reasons.min()
                changed = True

    def _group_classes(self, count: int) -> None:
        """Classes of equal signature {(slot, how many labels)} are a group; constraints count as slots."""
        labels = np.flatnonzero(self._slot_of >= 0)
        pseudo = len(self._slots)
        classes, slots = [self.class_of[labels]], [self._slot_of[labels]]
        for number, coded in enumerate(self._coded):
            free = self._free(coded)
            if not _vacuous(free, self._parts[number][2]):
                here = free[free >= 0]
                classes.append(here)
                slots.append(np.full(here.size, pseudo + number, dtype=np.int64))
        width = pseudo + len(self._parts)
        keys, counts = np.unique(np.concatenate(classes) * max(width, 1) + np.concatenate(slots), return_counts=True)
        key_class, key_slot = keys // max(width, 1), keys % max(width, 1)
        # a class's signature is the wrapping sum of a random word for each (slot, count)
        generator = np.random.default_rng(0x5EED)
        words = generator.integers(1, 2**63, size=(max(width, 1), 2), dtype=np.int64).astype(np.uint64)
        signature = np.zeros(count, dtype=np.uint64)
        mixed = (words[key_slot, 0] * (counts.astype(np.uint64) * 2 + 1)) ^ words[key_slot, 1]
        np.add.at(signature, key_class, mixed * np.uint64(0x9E3779B97F4A7C15))
        frozen = self._class_reason < len(self._frozen)
        signature[frozen] ^= np.uint64(0xF0F0F0F0F0F0F0F0)
        in_slot = np.zeros(count, dtype=bool)
        in_slot[key_class[key_slot < pseudo]] = True
        # groups are numbered by the first label of their first class, so names and order follow the network
        group_of = np.full(count, -1, dtype=np.int64)
        _, first, inverse = np.unique(signature[in_slot], return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first, kind="stable"), kind="stable")
        group_of[in_slot] = order[inverse.ravel()]
        self.group_of = group_of
        self.channels = np.bincount(group_of[group_of >= 0], minlength=len(first)).astype(np.int64)
        # channel number of a class within its group: ascending first label
        self.rank = np.zeros(count, dtype=np.int64)
        members = np.flatnonzero(group_of >= 0)
        by_group = members[np.argsort(group_of[members], kind="stable")]
        starts = np.cumsum(self.channels) - self.channels
        self.rank[by_group] = np.arange(len(by_group)) - starts[group_of[by_group]]
        self._group_reason = np.full(len(self.channels), len(self._frozen), dtype=np.int64)
        np.minimum.at(self._group_reason, group_of[members], self._class_reason[members])

    # ------------------------------------------------------------ constraints

    def _resolve(self) -> list[tuple[Indices, str]]:
        """Sort out every constraint; returns those that are neither a partition of a group nor a link of groups."""
        clashes = []
        self._constraints: list[_Constraint] = []
        self._cells: dict[int, Indices] = {}
        for (rows, reason, may_vanish), coded in zip(self._parts, self._coded, strict=True):
            free = self._free(coded)
            if _vacuous(free, may_vanish):
                continue
            found = self._expressed(free, reason)
            if found is None or not self._partition(found):
                clashes.append((rows, reason))
            else:
                self._constraints.append(found)
        return clashes

    def _expressed(self, free: Indices, reason: str) -> _Constraint | None:
        if (self.group_of[free[free >= 0]] < 0).any():
            return None
        distinct = list({np.sort(row).tobytes(): number for number, row in enumerate(free)}.values())
        rows = free[sorted(distinct)]
        fixed = (rows < 0).sum(axis=1)
        if (fixed != fixed[0]).any():
            return None
        inside = rows >= 0
        number = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)[inside]
        pairs, repeats = np.unique(rows[inside] * len(rows) + number, return_counts=True)
        classes, part_of = pairs // len(rows), pairs % len(rows)
        if (classes[1:] == classes[:-1]).any():  # a class in two parts that differ elsewhere
            return None
        types = tuple(tuple(dict.fromkeys(self.group_of[row[row >= 0]].tolist())) for row in rows)
        return _Constraint(classes, part_of, repeats, types, reason)

    def _partition(self, found: _Constraint) -> bool:
        """Enter `found` as partitions of its groups; False where that cannot be."""
        groups = self.group_of[found.classes]
        kinds = dict.fromkeys(found.types)
        if sum(len(set(k)) for k in kinds) != len({g for k in kinds for g in k}) or len({len(k) for k in kinds}) != 1:
            return False
        cells = dict(self._cells)
        shares: dict[int, tuple[int, int]] = {}
        for group in np.unique(groups):
            number = int(group)
            here = groups == group
            ranks = self.rank[found.classes[here]]
            if ranks.size != self.channels[number]:
                return False
            part = np.empty(ranks.size, dtype=np.int64)
            part[ranks] = np.unique(found.part_of[here], return_inverse=True)[1].ravel()
            merged = _crossed(cells.get(number), part)
            if merged is None:
                return False
            cells[number] = merged
            shares[number] = int(self.channels[number]) // (int(part.max()) + 1), int(found.repeats[here][0])
        columns = list(zip(*kinds, strict=True))
        if any(len({shares[g] for g in column}) != 1 for column in columns):
            return False
        self._cells = cells
        return True

    def constraints(self, names: Mapping[int, str]) -> tuple[dict[int, list[Partition]], tuple[Link, ...]]:
        """Partitions of single groups (crossing ones merged into their cells) and links of whole groups."""
        partitions: dict[int, list[Partition]] = {}
        links: dict[Link, None] = {}
        for found in self._constraints:
            groups = self.group_of[found.classes]
            kinds = list(dict.fromkeys(found.types))
            for group in np.unique(groups).tolist():
                if group not in partitions and self._cells[group].max() > 0:
                    partitions[group] = [Partition(self._cells[group], found.reason)]
            for column in zip(*kinds, strict=True) if len(kinds) > 1 else ():
                parts = [sum(group in kind for kind in found.types) for group in column]
                common = math.gcd(*parts)
                links[Link(tuple(names[g] for g in column), tuple(p // common for p in parts), found.reason)] = None
        return partitions, tuple(links)

    # ------------------------------------------------------------ views

    def reason(self, number: int) -> str | None:
        """Why the group is frozen, or None."""
        first = int(self._group_reason[number])
        return self._frozen[first][1] if first < len(self._frozen) else None

    def rows(self, labels: Indices) -> list[tuple[int, Indices]]:
        """For each group in `labels`: positions owned by each of its channels, `(channels, k)`; uneven ones left out."""
        positions = np.flatnonzero(labels >= 0)
        classes = self.class_of[labels[positions]]
        groups = self.group_of[classes]
        found = []
        for number in np.unique(groups[groups >= 0]):
            here = groups == number
            ranks, where = self.rank[classes[here]], positions[here]
            counts = np.bincount(ranks, minlength=int(self.channels[number]))
            if (counts == counts[0]).all():
                order = np.argsort(ranks, kind="stable")
                found.append((int(number), where[order].reshape(int(self.channels[number]), -1).astype(np.int64)))
        return found

    def members(self, roles: Mapping[int, Role]) -> dict[int, list[Member]]:
        """The members of every group, groups in their order, members in the order of the network's tensors."""
        labels = np.flatnonzero(self._slot_of >= 0)
        if not labels.size:
            return {}
        classes, slots = self.class_of[labels], self._slot_of[labels]
        groups = self.group_of[classes]
        order = np.lexsort((labels, self.rank[classes], slots, groups))
        labels, slots, groups = labels[order], slots[order], groups[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(groups) != 0) | (np.diff(slots) != 0)])
        found: dict[int, list[Member]] = {}
        for begin, end in zip(starts, np.r_[starts[1:], len(labels)], strict=True):
            group, number = int(groups[begin]), int(slots[begin])
            slot = self._slots[number]
            role = roles.get(number, "other" if slot.is_parameter else "buffer")
            index = (labels[begin:end] - slot.offset).reshape(int(self.channels[group]), -1)
            found.setdefault(group, []).append(Member(slot.tensor, slot.dim, role, index))
        return found

    def affine(self, arrays: Sequence[Indices], names: Mapping[int, str]) -> list[Affine]:
        """For each array: how many of its labels stay, as an affine form of the kept counts."""
        if not arrays:
            return []
        owner = np.repeat(np.arange(len(arrays)), [a.size for a in arrays])
        labels = np.concatenate([a.ravel() for a in arrays])
        free = self._free(np.where(labels >= 0, self.class_of[labels], -1)) if labels.size else labels
        groups = np.where(free >= 0, self.group_of[free], -1) if labels.size else labels
        constants = np.bincount(owner[groups < 0], minlength=len(arrays))
        total = max(len(self.channels), 1)
        keys, counts = np.unique(owner[groups >= 0] * total + groups[groups >= 0], return_counts=True)
        terms: list[list[tuple[int, int]]] = [[] for _ in arrays]
        for which, group, many in zip((keys // total).tolist(), (keys % total).tolist(), counts.tolist(), strict=True):
            terms[which].append((group, many))
        return [self._form(int(c), t, names) for c, t in zip(constants, terms, strict=True)]

    def _form(self, constant: int, terms: list[tuple[int, int]], names: Mapping[int, str]) -> Affine:
        """`constant` positions that stay and, of each group, `many` positions: `many / channels` for each kept channel."""
        common = math.lcm(*(int(self.channels[g]) // math.gcd(int(self.channels[g]), many) for g, many in terms))
        scaled = tuple((names[g], many * common // int(self.channels[g])) for g, many in terms)
        return Affine(constant, scaled, common)


def _vacuous(free: Indices, may_vanish: bool) -> bool:
    """Whether the parts keep equal counts whatever goes: all hold the same channels (or each a single one that may go)."""
    if (free == free[:1]).all() or (may_vanish and (free == free[:, :1]).all()):
        return True
    ordered = np.sort(free, axis=1)
    return bool((ordered == ordered[:1]).all())


def _crossed(old: Indices | None, part: Indices) -> Indices | None:
    """Cells of two partitions where all cells are of equal size, else None; equal cells keep both partitions."""
    if old is not None:
        part = np.unique(old * (int(part.max()) + 1) + part, return_inverse=True)[1].ravel().astype(np.int64)
    sizes = np.bincount(part)
    return part if (sizes == sizes[0]).all() else None
