"""Ties, freezes and constraints over labels -> channels, channel groups, partitions and links."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

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
        counts: Sequence[tuple[Indices, Indices, Fraction, str]] = (),
        apart: Sequence[Indices] = (),
    ) -> None:
        self._apart = apart
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
                unequal = self._compare_counts(counts)
                if not unequal:
                    break
                self._frozen += unequal
                continue
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
        # classes are numbered by their smallest label, which is its own root
        self.class_of = (np.cumsum(roots == np.arange(self._size)) - 1)[roots]
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
        for number, marked in enumerate(self._apart):
            classes.append(self.class_of[marked])
            slots.append(np.full(marked.size, pseudo + len(self._parts) + number, dtype=np.int64))
        # a class's signature is the wrapping sum of a random word for each of its labels' slots: equal for equal counts
        generator = np.random.default_rng(0x5EED)
        words = generator.integers(1, 2**63, size=pseudo + len(self._parts) + len(self._apart), dtype=np.int64).astype(
            np.uint64
        )
        signature = np.zeros(count, dtype=np.uint64)
        np.add.at(signature, np.concatenate(classes), words[np.concatenate(slots)])
        frozen = self._class_reason < len(self._frozen)
        signature[frozen] ^= np.uint64(0xF0F0F0F0F0F0F0F0)
        in_slot = np.zeros(count, dtype=bool)
        in_slot[classes[0]] = True
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

    # ------------------------------------------------------------ equal counts

    def _compare_counts(self, counts: Sequence[tuple[Indices, Indices, Fraction, str]]) -> list[tuple[Indices, str]]:
        """Notes pairs of groups whose widths go together; returns what has to be frozen because no pair says it.

        Sums of several groups are fine where pairs and equal parts already say the same (q alone, k and v together).
        """
        self._pairs: dict[tuple[int, int], tuple[Fraction, str]] = {}
        pending = []
        for left, right, scale, reason in counts:
            a, b = self._shares(left), self._shares(right)
            shares = {g: a.get(g, Fraction(0)) - scale * b.get(g, Fraction(0)) for g in {**a, **b}}
            pending.append(({g: share for g, share in shares.items() if share}, reason))
        while True:
            tied, known, later = self._proportions(), len(self._pairs), []
            for shares, reason in pending:
                rest: dict[int, Fraction] = {}
                for group, share in shares.items():
                    root, ratio = tied.get(group, (group, Fraction(1)))
                    rest[root] = rest.get(root, Fraction(0)) + share * ratio
                moving = [g for g, share in rest.items() if share]
                if len(moving) == 2 and min(moving) >= 0 and rest[moving[0]] * rest[moving[1]] < 0:
                    first, second = moving
                    self._pairs.setdefault((first, second), (-rest[second] / rest[first], reason))
                elif moving:
                    later.append((shares, reason))
            pending = later
            if len(self._pairs) == known:
                break
        stuck = [
            (np.flatnonzero(np.isin(self.group_of[self.class_of], [g for g in shares if g >= 0])), reason)
            for shares, reason in pending
        ]
        return [(labels, reason) for labels, reason in stuck if labels.size]

    def _proportions(self) -> dict[int, tuple[int, Fraction]]:
        """group -> (root, ratio): `kept[group] = ratio * kept[root]`, as far as pairs and equal parts say so."""
        edges: dict[int, list[tuple[int, Fraction]]] = {}
        said = [(left, right, scale) for (left, right), (scale, _) in self._pairs.items()]
        for columns in map(_columns, self._constraints):
            said += [(g, column[0][0], Fraction(p, column[0][1])) for column in columns for g, p in column[1:]]
        for left, right, scale in said:
            edges.setdefault(left, []).append((right, 1 / scale))
            edges.setdefault(right, []).append((left, scale))
        found: dict[int, tuple[int, Fraction]] = {}
        for root in edges:
            queue = [] if root in found else [(root, Fraction(1))]
            for group, ratio in queue:
                if group not in found:
                    found[group] = root, ratio
                    queue += [(other, ratio * scale) for other, scale in edges[group]]
        return found

    def _shares(self, labels: Indices) -> dict[int, Fraction]:
        """Of each group (-1: what always stays), how many of `labels` there are for each of its channels."""
        free = self._free(np.where(labels >= 0, self.class_of[labels], -1))
        groups, counts = np.unique(np.where(free >= 0, self.group_of[free], -1), return_counts=True)
        return {
            int(g): Fraction(int(c), int(self.channels[g]) if g >= 0 else 1)
            for g, c in zip(groups, counts, strict=True)
        }

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
            for group in np.unique(groups).tolist():
                if group not in partitions and self._cells[group].max() > 0:
                    partitions[group] = [Partition(self._cells[group], found.reason)]
            for column in _columns(found):
                common = math.gcd(*(parts for _, parts in column))
                ratios = tuple(parts // common for _, parts in column)
                links[Link(tuple(names[g] for g, _ in column), ratios, found.reason)] = None
        for (left, right), (scale, reason) in self._pairs.items():
            # kept[left] = scale * kept[right]
            links[Link((names[left], names[right]), (scale.numerator, scale.denominator), reason)] = None
        return partitions, tuple(links)

    # ------------------------------------------------------------ views

    def reason(self, number: int) -> str | None:
        """Why the group is frozen, or None."""
        first = int(self._group_reason[number])
        return self._frozen[first][1] if first < len(self._frozen) else None

    def rows(self, arrays: Sequence[Indices]) -> list[tuple[int, int, Indices]]:
        """`(array, group, index)`: positions in that array owned by each channel of the group, `(channels, k)`.

        Groups that own unevenly many positions for their channels are left out.
        """
        if not arrays:
            return []
        labels = np.concatenate(arrays)
        sizes = np.array([a.size for a in arrays])
        owner = np.repeat(np.arange(len(arrays)), sizes)
        place = np.arange(labels.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        classes = np.where(labels >= 0, self.class_of[labels], 0)
        groups = np.where(labels >= 0, self.group_of[classes], -1)
        inside = groups >= 0
        owner, place, groups, ranks = owner[inside], place[inside], groups[inside], self.rank[classes[inside]]
        # one stable sort of one key: the runs that are in order already cost nothing
        order = np.argsort(
            (owner * len(self.channels) + groups) * (int(self.channels.max(initial=0)) + 1) + ranks, kind="stable"
        )
        owner, place, groups, ranks = owner[order], place[order], groups[order], ranks[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(owner) != 0) | (np.diff(groups) != 0)]) if owner.size else owner
        found = []
        for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(owner)], strict=True):
            channels = int(self.channels[groups[begin]])
            k, rest = divmod(end - begin, channels)
            if (
                rest == 0
                and (ranks[begin : end : max(k, 1)] == np.arange(channels)).all()
                and (ranks[begin + k - 1 : end : max(k, 1)] == np.arange(channels)).all()
            ):
                found.append((int(owner[begin]), int(groups[begin]), place[begin:end].reshape(channels, k)))
        return found

    def members(self, roles: Mapping[int, Role]) -> dict[int, list[Member]]:
        """The members of every group, groups in their order, members in the order of the network's tensors."""
        labels = np.flatnonzero(self._slot_of >= 0)
        if not labels.size:
            return {}
        classes, slots = self.class_of[labels], self._slot_of[labels]
        groups = self.group_of[classes]
        keys = (groups * len(self._slots) + slots) * (int(self.channels.max(initial=0)) + 1) + self.rank[classes]
        order = np.argsort(keys, kind="stable")
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
        keys, counts = _counted(owner[groups >= 0] * total + groups[groups >= 0])
        terms: list[list[tuple[int, int]]] = [[] for _ in arrays]
        for which, group, many in zip((keys // total).tolist(), (keys % total).tolist(), counts.tolist(), strict=True):
            terms[which].append((group, many))
        return [self._form(int(c), t, names) for c, t in zip(constants, terms, strict=True)]

    def _form(self, constant: int, terms: list[tuple[int, int]], names: Mapping[int, str]) -> Affine:
        """`constant` positions that stay and, of each group, `many` positions: `many / channels` for each kept channel."""
        common = math.lcm(*(int(self.channels[g]) // math.gcd(int(self.channels[g]), many) for g, many in terms))
        scaled = tuple((names[g], many * common // int(self.channels[g])) for g, many in terms)
        return Affine(constant, scaled, common)


def _counted(keys: Indices) -> tuple[Indices, Indices]:
    """The distinct keys, ascending, and how often each stands there; equal neighbours are counted before anything is sorted."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if keys.size else keys
    lengths = np.diff(np.r_[starts, keys.size])
    found, inverse = np.unique(keys[starts], return_inverse=True)
    return found, np.bincount(inverse.ravel(), weights=lengths, minlength=len(found)).astype(np.int64)


def _columns(found: _Constraint) -> list[list[tuple[int, int]]]:
    """Groups of different parts that stand for each other, each with the number of parts it is in."""
    kinds = list(dict.fromkeys(found.types))
    columns = zip(*kinds, strict=True) if len(kinds) > 1 else ()
    return [[(group, sum(group in kind for kind in found.types)) for group in column] for column in columns]


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
