"""What the code does with numbers that remember where they came from, and what follows from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from prunecore.graph import GraphBuilder
from prunecore.types import Indices
from prunecore_plugins.graphs.labels.numbers import ONE, Attribute, Form, Monomial, Number, Width, form_of, single


@dataclass(frozen=True, eq=False)
class _Scaled:
    """What carries `labels` is multiplied by `form ** power`."""

    form: Form
    power: float
    labels: Indices
    reason: str


@dataclass(frozen=True, eq=False)
class _Use:
    """`form` has to equal the number of `labels` that stay."""

    form: Form
    labels: Indices
    reason: str


class Ledger:
    """What the numbers were used for, and what follows from that."""

    def __init__(self) -> None:
        self._uses: list[_Use] = []
        self._offers: list[tuple[Number, Indices, str]] = []
        self._scaled: list[_Scaled] = []
        self._fixed: set[Attribute] = set()
        self._stuck: list[tuple[Indices, str]] = []
        self._seen: set[tuple[Any, bytes]] = set()
        self._where: Callable[[], str] = lambda: ""

    def locate(self, where: Callable[[], str]) -> None:
        """`where()`: the module that runs now, for reasons."""
        self._where = where

    def width(self, labels: Indices) -> Number:
        """The size of a dim that carries `labels`."""
        source = Width.of(labels)
        return Number(source.value, source, self)

    def attribute(self, source: Attribute) -> Number:
        return Number(source.value, source, self)

    def use(self, number: int, labels: Indices, reason: str) -> None:
        """The code says `number` where the labels that stay of `labels` are counted."""
        labels = labels.ravel()
        if not (labels >= 0).any():
            self.fix(number, reason)
            return
        form = form_of(number) or {ONE: Fraction(int(number))}
        key = tuple(sorted(map(str, form.items()))), labels.tobytes()
        if key not in self._seen:
            self._seen.add(key)
            self._uses.append(_Use(form, labels, reason))

    def offer(self, number: int, labels: Indices, reason: str) -> None:
        """As `use`, if it turns out that the labels are those of a tensor."""
        if isinstance(number, Number):
            self._offers.append((number, labels, reason))

    def scale(self, number: int, power: float, labels: Indices, reason: str, *, before: int = 0) -> None:
        """What carries `labels` (all of them, raw) is multiplied by `number ** power`; before: how often it was already.

        Weights that are used again, or in a second forward, make up for their scale once.
        """
        if not isinstance(number, Number):
            return
        key = ((*sorted(map(str, number.form.items())), power, before), labels.tobytes())
        if not labels.size or key not in self._seen:
            self._seen.add(key)
            self._scaled.append(_Scaled(number.form, power, labels, reason))

    def fix(self, number: int, reason: str) -> None:
        """The code says `number` where nothing is ever cut."""
        if isinstance(number, Number):
            self._fix(number.form, reason)

    def read_as_float(self, form: Form) -> None:
        """A scale or the like is made of a number: it may not change."""
        where = self._where() or "the network itself"
        self._fix(form, f"a value is computed from its size (in {where})")

    def found_equal(self, left: Form, right: Form) -> None:
        """The code compares a width with an attribute and finds them equal: so they should be afterwards."""
        for a, b in ((left, right), (right, left)):
            width = single(a, Width)
            if width is not None and single(b, Attribute) is not None:
                self._uses.append(_Use(b, width.labels, "compared with a number of the code"))

    def _fix(self, form: Form, reason: str) -> None:
        for monomial in form:
            for source, _ in monomial:
                if isinstance(source, Width):
                    self._stuck.append((source.labels, reason))
                elif len(monomial) == 1 and len(form) == 1:
                    self._fixed.add(source)

    def width_of(self, number: Any) -> Indices | None:
        """The labels behind `number`, where it is just the size of a dim."""
        source = single(number.form, Width) if isinstance(number, Number) else None
        return None if source is None else source.labels

    def may_follow(self, number: Any) -> bool:
        """Whether anything is known of where `number` comes from."""
        return isinstance(number, Number)

    def follows(self, number: Any) -> bool:
        """Whether `number` is made of a width, so that it changes with it."""
        return isinstance(number, Number) and any(isinstance(s, Width) and p > 0 for m in number.form for s, p in m)

    def settle(self, builder: GraphBuilder) -> None:
        """Tell the builder which attributes follow, which widths stay equal and what may not be cut."""
        for labels, reason in self._stuck:
            _freeze(builder, labels, reason)
        tied = builder.tied([labels for _, labels, _ in self._offers])
        for (number, labels, reason), wanted in zip(self._offers, tied, strict=True):
            if wanted:
                self.use(number, labels, reason)
            else:
                self.fix(number, reason)
        following: dict[Attribute, list[tuple[Fraction, _Use]]] = {}
        pending = list(self._uses)
        for scaled in self._scaled:
            self._place(builder, scaled)
        while pending:
            left = [use for use in pending if not self._settled(builder, use, following)]
            if len(left) == len(pending):
                break
            pending = left
        for use in pending:
            reason = f"{use.reason}: a number that cannot be followed"
            _freeze(builder, use.labels, reason)
            for source in {s for monomial in use.form for s, _ in monomial}:
                if isinstance(source, Width):
                    _freeze(builder, source.labels, reason)
                else:
                    self._fixed.add(source)
        for source, uses in following.items():
            if source in self._fixed:
                for _, use in uses:
                    _freeze(
                        builder,
                        use.labels,
                        f"{use.reason}: {f'{source.module}.{source.name}'.lstrip('.')} is used otherwise too",
                    )
                continue
            scale, first = uses[0]
            builder.attribute(source.module, source.name, first.labels, scale, index=source.index)
            for other, use in uses[1:]:
                builder.equal_counts(first.labels, use.labels, scale / other, use.reason)

    def _place(self, builder: GraphBuilder, scaled: _Scaled) -> None:
        """Where the width changes, so does the scale: the weights that make what is scaled make up for it."""
        sources = {s for monomial in scaled.form for s, _ in monomial}
        widths = {s for s in sources if isinstance(s, Width)}
        for source in widths or sources:
            labels = source.labels if isinstance(source, Width) else self._labels_of(source)
            if labels is not None:
                if not builder.scaled(scaled.labels, labels, scaled.power):
                    _freeze(builder, labels, scaled.reason)
            elif isinstance(source, Attribute):
                self._fixed.add(source)

    def _labels_of(self, source: Attribute) -> Indices | None:
        """The channels that an attribute is the number of, where it is used as a size by itself."""
        return next((use.labels for use in self._uses if single(use.form, Attribute) == source), None)

    def _settled(
        self, builder: GraphBuilder, use: _Use, following: dict[Attribute, list[tuple[Fraction, _Use]]]
    ) -> bool:
        """Enter one use; False where it has to wait for others."""
        form = self._reduced(use.form, following)
        if all(m == ONE for m in form):
            _freeze(builder, use.labels, f"{use.reason}: the code keeps {int(sum(form.values()))} of them")
            return True
        if len(form) > 1:
            return self._summed(builder, use, form, following)
        ((monomial, scale),) = form.items()
        if len(monomial) > 1 or next(iter(monomial))[1] != 1:
            return False
        source = next(iter(monomial))[0]
        if isinstance(source, Width):
            builder.equal_counts(use.labels, source.labels, scale, use.reason)
        else:
            following.setdefault(source, []).append((scale, use))
        return True

    def _summed(
        self, builder: GraphBuilder, use: _Use, form: Form, following: dict[Attribute, list[tuple[Fraction, _Use]]]
    ) -> bool:
        """`dim - part` labels, where `part` follows others: `dim` is as many as both together."""
        whole, parts = [], [use.labels]
        for monomial, coefficient in form.items():
            source, power = next(iter(monomial), (None, 0))
            if len(monomial) != 1 or power != 1 or abs(coefficient) != 1:
                return False
            labels = source.labels if isinstance(source, Width) else None
            if isinstance(source, Attribute) and source in following and following[source][0][0] == 1:
                labels = following[source][0][1].labels
            if coefficient == 1:
                whole.append((source, labels))
            elif labels is None:
                return False
            else:
                parts.append(labels)
        if len(whole) != 1:
            return False
        (source, labels), together = whole[0], np.concatenate([p.ravel() for p in parts])
        if labels is not None:
            builder.equal_counts(together, labels, 1, use.reason)
        elif isinstance(source, Attribute):
            following[source] = [(Fraction(1), _Use(use.form, together, use.reason))]
        return True

    def _reduced(self, form: Form, following: Mapping[Attribute, Any]) -> Form:
        """Fixed attributes as numbers; so are those beside a source that is known to follow."""
        found: dict[Monomial, Fraction] = {}
        for monomial, coefficient in form.items():
            moving = [s for s, _ in monomial if isinstance(s, Width) or s in following]
            kept = []
            for source, power in monomial:
                if source in self._fixed or (len(moving) == 1 and source not in moving):
                    coefficient = coefficient * Fraction(source.value) ** power
                else:
                    kept.append((source, power))
            key = frozenset(kept)
            found[key] = found.get(key, Fraction(0)) + coefficient
        return found


def _freeze(builder: GraphBuilder, labels: Indices, reason: str) -> None:
    """Freeze labels; -1 is passed over."""
    builder.freeze(labels[labels >= 0], reason)
