"""From labels to channel groups: what every graph engine ends with.

An engine gives each position along each dim of each parameter and buffer an integer label (`labels`), says which labels
are one channel (`tie`), which may not go (`freeze`), which parts must keep equal counts (`equal_parts`), and what each
operation costs (`op`). `build` resolves all ties at once with vectorised connected components; a class of tied labels is
a channel, and channels that span the same set of (tensor, dim) pairs are a channel group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunecore.types import (
    Affine,
    AttributeForm,
    ChannelGroup,
    DependencyGraph,
    Indices,
    Link,
    Member,
    OpCost,
    Partition,
    Role,
    Site,
    TensorForm,
    Unprunable,
)

if TYPE_CHECKING:
    from torch import nn

UNREACHED = "the forward does not use it"


@dataclass(frozen=True)
class _Slot:
    """One dim of one tensor; its labels are `offset … offset + size - 1`."""

    tensor: str
    dim: int
    size: int
    offset: int
    is_parameter: bool


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


class GraphBuilder:
    """Collects labels, ties and costs while an engine traces; `build()` returns the frozen graph."""

    def __init__(self, model: nn.Module, engine: str) -> None:
        self._engine = engine
        self._slots: list[_Slot] = []
        self._first: dict[tuple[str, int], int] = {}
        self._roles: dict[int, Role] = {}
        self._used: set[int] = set()
        self._ties: list[tuple[Indices, Indices]] = []
        self._frozen: list[tuple[Indices, str]] = []
        self._parts: list[tuple[Indices, str]] = []
        self._sites: list[tuple[str, int, int, Indices]] = []
        self._ops: list[tuple[str, str, int, tuple[int | Indices, ...]]] = []
        self._attributes: list[tuple[str, str, Indices, int]] = []
        self._shapes: dict[str, tuple[tuple[int, ...], bool]] = {}
        self._size = 0
        # remove_duplicate (the default) gives a shared tensor its first name only
        for name, parameter in model.named_parameters():
            self._add_tensor(name, tuple(parameter.shape), is_parameter=True)
        for name, buffer in model.named_buffers():
            self._add_tensor(name, tuple(buffer.shape), is_parameter=False)

    def _add_tensor(self, name: str, shape: tuple[int, ...], *, is_parameter: bool) -> None:
        self._shapes[name] = (shape, is_parameter)
        for dim, size in enumerate(shape):
            self._first[name, dim] = len(self._slots)
            self._slots.append(_Slot(name, dim, size, self._size, is_parameter))
            self._size += size

    # ------------------------------------------------------------ what an engine says

    def labels(self, tensor: str, dim: int, role: Role | None = None) -> Indices:
        """Labels along `dim` of parameter or buffer `tensor`, shape `(size,)`. Marks the dim as used by the forward."""
        number = self._first[tensor, dim]
        slot = self._slots[number]
        self._used.add(number)
        if role is not None:
            self._roles.setdefault(number, role)
        return np.arange(slot.offset, slot.offset + slot.size, dtype=np.int64)

    def fresh(self, count: int) -> Indices:
        """Labels that belong to no tensor (a width that lives in activations only), shape `(count,)`."""
        start = self._size
        self._size += count
        return np.arange(start, start + count, dtype=np.int64)

    def tie(self, left: Indices, right: Indices) -> None:
        """Element by element, these labels are the same channel. Shapes must be equal."""
        if left.shape != right.shape:
            raise ValueError(f"tie: got {left.size} labels against {right.size}")
        self._ties.append((left.ravel(), right.ravel()))

    def freeze(self, labels: Indices, reason: str) -> None:
        """These labels, and all that is tied to them, may not be removed; `reason` names the operation."""
        if labels.size:
            self._frozen.append((np.unique(labels), reason))

    def equal_parts(self, parts: Indices, reason: str) -> None:
        """`parts`, shape `(parts, n)`: each row must keep as many labels as the others (grouped conv, chunk, heads)."""
        self._parts.append((parts, reason))

    def site(self, module: str, output: int, dim: int, labels: Indices) -> None:
        """`labels` along `dim` of the module's `output`-th tensor, shape `(size,)`, -1 where there is none."""
        self._sites.append((module, output, dim, labels))

    def op(self, module: str, op: str, scale: int, factors: Sequence[int | Indices]) -> None:
        """An operation of `scale * product(factors)` MACs; a factor is a constant or the labels that make up a dim."""
        self._ops.append((module, op, scale, tuple(factors)))

    def attribute(self, module: str, attribute: str, labels: Indices, divisor: int = 1) -> None:
        """A Python number of a module that follows the number of kept `labels`, divided by `divisor`."""
        self._attributes.append((module, attribute, labels, divisor))

    # ------------------------------------------------------------ resolution

    def build(self) -> DependencyGraph:
        """Resolve ties, constraints and costs into a frozen `DependencyGraph`."""
        for number, slot in enumerate(self._slots):
            if number not in self._used:
                self.freeze(np.arange(slot.offset, slot.offset + slot.size, dtype=np.int64), UNREACHED)
        resolved = _Resolved(self._size, self._ties, self._frozen, self._parts, self._slots)
        groups, links = self._groups(resolved)
        forms = [self._form(resolved, name) for name in self._shapes]
        ops = [
            OpCost(module, op, scale, tuple(resolved.affine(f) if not isinstance(f, int) else Affine(f) for f in factors))
            for module, op, scale, factors in self._ops
        ]
        attributes = tuple(
            AttributeForm(module, attribute, resolved.affine(labels, divisor))
            for module, attribute, labels, divisor in self._attributes
        )
        return DependencyGraph(
            groups=groups,
            links=links,
            ops=tuple(ops),
            tensors=tuple(forms),
            attributes=tuple(a for a in attributes if a.value.terms),
            unprunable=_unprunable(groups),
            engine=self._engine,
        )

    def _form(self, resolved: _Resolved, name: str) -> TensorForm:
        shape, is_parameter = self._shapes[name]
        slots = [self._slots[self._first[name, dim]] for dim in range(len(shape))]
        dims = [resolved.affine(np.arange(s.offset, s.offset + s.size, dtype=np.int64)) for s in slots]
        return TensorForm(name, tuple(dims), is_parameter)

    def _groups(self, resolved: _Resolved) -> tuple[tuple[ChannelGroup, ...], tuple[Link, ...]]:
        members = resolved.members(self._slots, self._roles)
        names = _names(members)
        resolved.name(names)
        sites: dict[int, list[Site]] = {}
        for module, output, dim, labels in self._sites:
            for number, index in resolved.rows(labels):
                sites.setdefault(number, []).append(Site(module, dim, index, output))
        partitions, links = resolved.constraints()
        groups = tuple(
            ChannelGroup(
                name=names[number],
                channels=int(resolved.channels[number]),
                members=tuple(group_members),
                sites=tuple(sites.get(number, ())),
                partitions=tuple(partitions.get(number, ())),
                frozen=resolved.reason(number),
            )
            for number, group_members in members.items()
        )
        # kernel dims and tensors that the forward leaves alone are no channel groups
        return tuple(g for g in groups if g.frozen != UNREACHED), links


def _names(members: dict[int, list[Member]]) -> dict[int, str]:
    """A group's name: the module of its first producer (else of its first member), numbered where it repeats."""
    names: dict[int, str] = {}
    taken: dict[str, int] = {}
    for number, group_members in members.items():
        first = next((m for m in group_members if m.role == "producer"), group_members[0])
        base = first.module or first.tensor
        taken[base] = taken.get(base, 0) + 1
        names[number] = base if taken[base] == 1 else f"{base}#{taken[base]}"
    return names


def _unprunable(groups: Iterable[ChannelGroup]) -> tuple[Unprunable, ...]:
    """Modules whose produced channels are frozen, one entry a module, with the first reason."""
    found: dict[str, str] = {}
    for group in groups:
        if group.frozen is None:
            continue
        for member in group.members:
            if member.role == "producer":
                found.setdefault(member.module, group.frozen)
    return tuple(Unprunable(module, reason) for module, reason in found.items())


class _Resolved:
    """Labels -> classes (channels) -> groups. Built once; constraints that cannot be kept freely are tied by position."""

    def __init__(
        self,
        size: int,
        ties: list[tuple[Indices, Indices]],
        frozen: list[tuple[Indices, str]],
        parts: list[tuple[Indices, str]],
        slots: list[_Slot],
    ) -> None:
        self._size, self._frozen, self._parts = size, frozen, parts
        self._slot_of = np.full(size, -1, dtype=np.int64)
        for number, slot in enumerate(slots):
            self._slot_of[slot.offset : slot.offset + slot.size] = number
        self._names: dict[int, str] = {}
        empty = np.empty(0, dtype=np.int64)
        left = np.concatenate([a for a, _ in ties] or [empty])
        right = np.concatenate([b for _, b in ties] or [empty])
        while True:
            self._classify(left, right)
            clashes = self._clashes()
            if not clashes:
                break
            for rows in clashes:  # fall back: position i of every part is one channel
                left = np.concatenate([left, np.broadcast_to(rows[:1], rows[1:].shape).ravel()])
                right = np.concatenate([right, rows[1:].ravel()])

    def _classify(self, left: Indices, right: Indices) -> None:
        roots = components(self._size, left, right)
        _, self.class_of = np.unique(roots, return_inverse=True)
        self.class_of = self.class_of.astype(np.int64)
        count = int(self.class_of.max()) + 1 if self._size else 0
        self._class_reason = np.full(count, len(self._frozen), dtype=np.int64)
        for number, (labels, _) in enumerate(self._frozen):
            np.minimum.at(self._class_reason, self.class_of[labels], number)
        self._spread_frozen()
        self._group_classes(count)

    def _spread_frozen(self) -> None:
        """Parts that must keep equal counts are frozen together."""
        changed = True
        while changed:
            changed = False
            for rows, _ in self._parts:
                classes = self.class_of[rows]
                reasons = self._class_reason[classes]
                whole = (reasons < len(self._frozen)).all(axis=1)
                if whole.any() and not whole.all():
                    self._class_reason[classes[~whole]] = np.minimum(reasons[~whole], reasons[whole].min())
                    changed = True

    def _group_classes(self, count: int) -> None:
        """Classes of equal signature {(slot, how many labels)} are a group; constraints count as slots."""
        labels = np.flatnonzero(self._slot_of >= 0)
        pairs = [(self.class_of[labels], self._slot_of[labels])]
        pseudo = int(self._slot_of.max(initial=-1)) + 1
        for number, (rows, _) in enumerate(self._parts):
            if not self._tied_by_position(rows):
                pairs.append((self.class_of[rows.ravel()], np.full(rows.size, pseudo + number, dtype=np.int64)))
        classes = np.concatenate([c for c, _ in pairs])
        slots = np.concatenate([s for _, s in pairs])
        width = pseudo + len(self._parts)
        keys, counts = np.unique(classes * max(width, 1) + slots, return_counts=True)
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

    def _tied_by_position(self, rows: Indices) -> bool:
        classes = self.class_of[rows]
        return bool((classes == classes[:1]).all())

    def _frozen_rows(self, rows: Indices) -> bool:
        return bool((self._class_reason[self.class_of[rows]] < len(self._frozen)).all())

    def _clashes(self) -> list[Indices]:
        """Constraints that are neither a partition of one group nor a link of whole groups."""
        clashes, partitioned = [], dict[int, Indices]()
        for rows, _ in self._parts:
            if self._tied_by_position(rows) or self._frozen_rows(rows):
                continue
            if not self._expressible(rows, partitioned):
                clashes.append(rows)
        return clashes

    def _expressible(self, rows: Indices, partitioned: dict[int, Indices]) -> bool:
        classes = self.class_of[rows]
        groups = self.group_of[classes]
        if (groups < 0).any() or len(np.unique(classes)) != classes.size:
            return False
        if (groups == groups[0, 0]).all():
            number = int(groups[0, 0])
            if classes.size != self.channels[number]:
                return False
            part = np.empty(classes.size, dtype=np.int64)
            part[self.rank[classes]] = np.arange(len(rows))[:, None]
            if number not in partitioned:
                partitioned[number] = part
                return True
            # crossing partitions: kept when their cells are of equal size, else tied by position
            cells = partitioned[number] * len(rows) + part
            sizes = np.unique(cells, return_counts=True)[1]
            if (sizes == sizes[0]).all():
                partitioned[number] = np.unique(cells, return_inverse=True)[1].astype(np.int64).ravel()
                return True
            return False
        return self._segments(groups) is not None

    def _segments(self, groups: Indices) -> list[tuple[int, ...]] | None:
        """Whole groups that stand beside each other in every part, or None."""
        cuts = [np.flatnonzero(np.diff(row)) for row in groups]
        if any(not np.array_equal(c, cuts[0]) for c in cuts):
            return None
        starts = np.concatenate([[0], cuts[0] + 1])
        lengths = np.diff(np.concatenate([starts, [groups.shape[1]]]))
        columns = groups[:, starts]
        if (self.channels[columns] != lengths).any() or (columns == columns[:1]).any():
            return None
        return [tuple(int(g) for g in columns[:, i]) for i in range(columns.shape[1])]

    # ------------------------------------------------------------ views

    def name(self, names: dict[int, str]) -> None:
        self._names = names

    def reason(self, number: int) -> str | None:
        """Why the group is frozen, or None."""
        first = int(self._class_reason[np.flatnonzero(self.group_of == number)].min())
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

    def members(self, slots: list[_Slot], roles: dict[int, Role]) -> dict[int, list[Member]]:
        found: dict[int, list[Member]] = {}
        for number, slot in enumerate(slots):
            role = roles.get(number, "other" if slot.is_parameter else "buffer")
            labels = np.arange(slot.offset, slot.offset + slot.size, dtype=np.int64)
            for group, index in self.rows(labels):
                found.setdefault(group, []).append(Member(slot.tensor, slot.dim, role, index))
        return dict(sorted(found.items()))

    def affine(self, labels: Indices, divisor: int = 1) -> Affine:
        """How many of `labels` stay, as an affine form of the kept counts."""
        classes = self.class_of[labels.ravel()]
        free = (self._class_reason[classes] == len(self._frozen)) & (self.group_of[classes] >= 0)
        constant = int((~free).sum())
        numbers, counts = np.unique(self.group_of[classes[free]], return_counts=True)
        common = int(np.lcm.reduce(self.channels[numbers] // np.gcd(self.channels[numbers], counts), initial=1))
        terms = tuple(
            (self._names[int(g)], int(c) * common // int(self.channels[g])) for g, c in zip(numbers, counts, strict=True)
        )
        if constant % divisor == 0:
            return Affine(constant // divisor, terms, common * divisor)
        return Affine(0, terms, common * divisor) if not constant else Affine(constant // divisor, (), 1)

    def constraints(self) -> tuple[dict[int, list[Partition]], tuple[Link, ...]]:
        """Partitions of single groups (crossing ones merged into their cells) and links of whole groups."""
        partitioned: dict[int, Indices] = {}
        reasons: dict[int, str] = {}
        links: list[Link] = []
        for rows, reason in self._parts:
            if self._tied_by_position(rows) or self._frozen_rows(rows):
                continue
            groups = self.group_of[self.class_of[rows]]
            if (groups == groups[0, 0]).all():
                self._expressible(rows, partitioned)
                reasons.setdefault(int(groups[0, 0]), reason)
                continue
            for column in self._segments(groups) or ():
                links.append(Link(tuple(self._names[g] for g in column), (1,) * len(column), reason))
        partitions = {number: [Partition(part, reasons[number])] for number, part in partitioned.items()}
        return partitions, tuple(links)
