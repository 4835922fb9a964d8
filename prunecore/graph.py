"""From labels to channel groups: what every graph engine ends with.

An engine gives each position along each dim of each parameter and buffer an integer label (`labels`), says which labels
are one channel (`tie`), which may not go (`freeze`), which parts must keep equal counts (`equal_parts`), and what each
operation costs (`op`). `build` resolves all ties at once with vectorised connected components; a class of tied labels is
a channel, and channels that span the same set of (tensor, dim) pairs are a channel group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecore._resolution import Resolution, Slot, components
from prunecore.types import (
    Affine,
    AttributeForm,
    ChannelGroup,
    DependencyGraph,
    Indices,
    Link,
    Member,
    OpCost,
    Role,
    Site,
    TensorForm,
    Unprunable,
    ValueForm,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["UNREACHED", "GraphBuilder", "OpRule", "components"]

UNREACHED = "the forward does not use it"


@dataclass(frozen=True)
class OpRule:
    """What an operator does to channel labels, for the label engine (hook `prune_op_rules`).

    ops: names as torch prints them (`aten.add.Tensor`, or `aten.add` for all overloads). apply(call) ties, freezes and
    costs through `call` and returns the label information of the outputs.
    """

    ops: tuple[str, ...]
    apply: Callable[[Any], Any]


class GraphBuilder:
    """Collects labels, ties and costs while an engine traces; `build()` returns the frozen graph."""

    def __init__(self, model: nn.Module, engine: str) -> None:
        self._engine = engine
        self._slots: list[Slot] = []
        self._first: dict[tuple[str, int], int] = {}
        self._roles: dict[int, Role] = {}
        self._used: set[int] = set()
        self._ties: list[tuple[Indices, Indices]] = []
        self._frozen: list[tuple[Indices, str]] = []
        self._parts: list[tuple[Indices, str, bool]] = []
        self._seen_parts: set[bytes] = set()
        self._sites: list[tuple[str, int, int, Indices]] = []
        self._ops: list[tuple[str, str, int, tuple[int | Indices, ...]]] = []
        self._attributes: list[tuple[str, str, int | None, Indices, Fraction]] = []
        self._scales: list[tuple[Slot, Indices, Indices, float]] = []
        self._apart: dict[bytes, Indices] = {}
        self._counts: list[tuple[Indices, Indices, Fraction, str]] = []
        self._shapes: dict[str, tuple[tuple[int, ...], bool]] = {}
        self._varies: str | None = None
        self._size = 0
        # remove_duplicate (the default) gives a shared tensor its first name only
        for name, parameter in model.named_parameters():
            self._add_tensor(name, tuple(parameter.shape), is_parameter=True)
        for name, buffer in model.named_buffers():
            self._add_tensor(name, tuple(buffer.shape), is_parameter=False)
        self._offsets = np.array([s.offset for s in self._slots], dtype=np.int64)
        self._slot_labels = self._size

    def _add_tensor(self, name: str, shape: tuple[int, ...], *, is_parameter: bool) -> None:
        self._shapes[name] = (shape, is_parameter)
        for dim, size in enumerate(shape):
            self._first[name, dim] = len(self._slots)
            self._slots.append(Slot(name, dim, size, self._size, is_parameter))
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

    def role(self, label: int, role: Role) -> None:
        """The dim that owns `label` plays `role`, unless it has one already; labels of no tensor are passed over."""
        if 0 <= label < self._slot_labels:
            self._roles.setdefault(int(np.searchsorted(self._offsets, label, side="right")) - 1, role)

    def fresh(self, count: int) -> Indices:
        """Labels that belong to no tensor (a width that lives in activations only), shape `(count,)`."""
        start = self._size
        self._size += count
        return np.arange(start, start + count, dtype=np.int64)

    def tied(self, arrays: Sequence[Indices]) -> list[bool]:
        """Of each array of fresh labels: whether any is tied to a label of a parameter or buffer by now."""
        if not arrays:
            return []
        left, right = (
            np.concatenate([pair[side] for pair in self._ties] or [np.empty(0, np.int64)]) for side in (0, 1)
        )
        # a component is numbered by its smallest label, and those of tensors come first
        roots = components(self._size, left, right)
        return [bool((roots[labels] < self._slot_labels).any()) for labels in arrays]

    def tie(self, left: Indices, right: Indices) -> None:
        """Element by element, these labels are the same channel. Shapes must be equal."""
        if left.shape != right.shape:
            raise ValueError(f"tie: got {left.size} labels against {right.size}")
        self._ties.append((left.ravel(), right.ravel()))

    def freeze(self, labels: Indices, reason: str) -> None:
        """These labels, and all that is tied to them, may not be removed; `reason` names the operation."""
        if labels.size:
            self._frozen.append((labels.ravel(), reason))

    def equal_parts(self, parts: Indices, reason: str, *, may_vanish: bool = False) -> None:
        """`parts`, shape `(parts, n)`: each row must keep as many labels as the others (grouped conv, chunk, heads).

        -1 stands for a position without a label, which always stays. may_vanish: where every part turns out to be a
        single channel, parts may go as a whole (a view whose count of parts follows the width).
        """
        key = (2 * len(parts) + may_vanish).to_bytes(8, "little") + np.ascontiguousarray(parts).tobytes()
        if len(parts) > 1 and key not in self._seen_parts:
            self._seen_parts.add(key)
            self._parts.append((parts, reason, may_vanish))

    def site(self, module: str, output: int, dim: int, labels: Indices) -> None:
        """`labels` along `dim` of the module's `output`-th tensor, shape `(size,)`, -1 where there is none."""
        self._sites.append((module, output, dim, labels))

    def op(self, module: str, op: str, scale: int, factors: Sequence[int | Indices]) -> None:
        """An operation of `scale * product(factors)` MACs; a factor is a constant or the labels that make up a dim."""
        self._ops.append((module, op, scale, tuple(factors)))

    def varies(self, operation: str) -> None:
        """How much later operations cost depends on values: `operation` gave a result as long as the data say."""
        self._varies = self._varies or operation

    def equal_counts(self, left: Indices, right: Indices, scale: Fraction | int, reason: str) -> None:
        """As many of `left` stay as of `right`, times `scale`, whichever they are; -1 always stays."""
        self._counts.append((left, right, Fraction(scale), reason))

    def apart(self, labels: Indices) -> None:
        """These labels are counted by themselves: they share no group with others. -1 is passed over."""
        labels = np.unique(labels[labels >= 0])
        if labels.size:
            self._apart.setdefault(labels.tobytes(), labels)

    def scaled(self, labels: Indices, width: Indices, power: float) -> bool:
        """What a layer gives is multiplied by the number of kept `width` to the `power`.

        labels: of the outputs of the layer's weights and of its biases, which then make up for the change. False where they
        are of anything but parameters, or of nothing.
        """
        own = np.unique(labels[labels >= 0])
        if not own.size or own[-1] >= self._slot_labels:
            return False
        owners = np.searchsorted(self._offsets, own, side="right") - 1
        slots = {int(n): self._slots[int(n)] for n in np.unique(owners)}
        if not all(slot.is_parameter for slot in slots.values()):
            return False
        self._scales += [(s, own[owners == n] - s.offset, width, power) for n, s in slots.items()]
        return True

    def attribute(
        self, module: str, attribute: str, labels: Indices, divisor: Fraction | int = 1, *, index: int | None = None
    ) -> None:
        """A Python number of a module that follows the number of kept `labels`, divided by `divisor`.

        index: which number of a tuple or list.
        """
        self._attributes.append((module, attribute, index, labels, Fraction(divisor)))

    # ------------------------------------------------------------ resolution

    def build(self) -> DependencyGraph:
        """Resolve ties, constraints and costs into a frozen `DependencyGraph`."""
        unused = [s for number, s in enumerate(self._slots) if number not in self._used]
        if unused:
            self.freeze(np.concatenate([s.labels for s in unused]), UNREACHED)
        resolved = Resolution(
            self._size,
            self._slots,
            ties=self._ties,
            frozen=self._frozen,
            parts=self._parts,
            counts=self._counts,
            apart=list(self._apart.values()),
        )
        groups, links, names = self._groups(resolved)
        ops = self._op_costs(resolved, names)
        values = resolved.affine([labels for _, _, _, labels, _ in self._attributes], names)
        attributes = tuple(
            AttributeForm(module, attribute, _divided(value, divisor), index)
            for (module, attribute, index, _, divisor), value in zip(self._attributes, values, strict=True)
        )
        return DependencyGraph(
            groups=groups,
            links=links,
            ops=ops,
            tensors=self._forms(resolved, names),
            attributes=tuple(
                {(a.module, a.attribute, a.index): a for a in reversed(attributes) if a.value.terms}.values()
            ),
            values=tuple(
                ValueForm(slot.tensor, slot.dim, tuple(positions.tolist()), width, power)
                for (slot, positions, _, power), width in zip(
                    self._scales, resolved.affine([w for _, _, w, _ in self._scales], names), strict=True
                )
                if width.terms
            ),
            unprunable=_unprunable(groups),
            engine=self._engine,
            varies=self._varies,
        )

    def _op_costs(self, resolved: Resolution, names: dict[int, str]) -> tuple[OpCost, ...]:
        arrays = [f for _, _, _, factors in self._ops for f in factors if not isinstance(f, int)]
        values = iter(resolved.affine(arrays, names))
        return tuple(
            OpCost(module, op, scale, tuple(Affine(f) if isinstance(f, int) else next(values) for f in factors))
            for module, op, scale, factors in self._ops
        )

    def _forms(self, resolved: Resolution, names: dict[int, str]) -> tuple[TensorForm, ...]:
        values = iter(resolved.affine([s.labels for s in self._slots], names))
        return tuple(
            TensorForm(name, tuple(next(values) for _ in shape), is_parameter)
            for name, (shape, is_parameter) in self._shapes.items()
        )

    def _groups(self, resolved: Resolution) -> tuple[tuple[ChannelGroup, ...], tuple[Link, ...], dict[int, str]]:
        members = resolved.members(self._roles)
        names = _names(members)
        sites: dict[int, list[Site]] = {}
        for which, number, index in resolved.rows([labels for _, _, _, labels in self._sites]):
            module, output, dim, _ = self._sites[which]
            sites.setdefault(number, []).append(Site(module, dim, index, output))
        partitions, links = resolved.constraints(names)
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
        return tuple(g for g in groups if g.frozen != UNREACHED), links, names


def _divided(value: Affine, divisor: Fraction) -> Affine:
    """`value / divisor`; a constant part that the divisor does not divide makes it a plain number."""
    constant = value.constant / divisor
    if constant.denominator != 1:
        return Affine(int(constant))
    terms = tuple((group, coefficient * divisor.denominator) for group, coefficient in value.terms)
    return Affine(int(constant), terms, value.divisor * divisor.numerator)


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
