"""Whole numbers that remember where they came from: the size of a tensor's dim, or an attribute of a module.

`reshape(B, N, 3, self.heads, C // self.heads)` with C from a tensor's shape says by itself that its last number follows C
and that `self.heads` is a plain number. While the network is traced, sizes and attributes are `Number`s; the rules note
where one is used (`Ledger.use`), and `settle` turns that into attributes that follow a width, widths that must stay equal,
and channels that have to stay because the code holds their number fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from torch import nn

from prunecore.graph import GraphBuilder
from prunecore.types import Indices


@dataclass(frozen=True)
class Attribute:
    """A number that a module keeps; index: its place where the attribute is a tuple or a list."""

    module: str
    name: str
    index: int | None
    value: int


@dataclass(frozen=True)
class Width:
    """The size of a tensor's dim that carries channels; `labels` are compared by `key`."""

    key: bytes
    labels: Indices = field(compare=False, repr=False)
    value: int

    @classmethod
    def of(cls, labels: Indices) -> Width:
        line = np.ascontiguousarray(labels.ravel())
        return cls(line.tobytes(), line, line.size)


Source = Attribute | Width
Monomial = frozenset[tuple[Source, int]]  # sources and their powers
Form = Mapping[Monomial, Fraction]  # a sum of monomials with coefficients
_ONE: Monomial = frozenset()


class Number(int):
    """An int with a form. Sums, products and exact quotients keep it; everything else gives plain numbers."""

    ledger: Ledger
    _made_of: Source | Form

    def __new__(cls, value: int, made_of: Source | Form, ledger: Ledger) -> Number:
        made = super().__new__(cls, value)
        made._made_of, made.ledger = made_of, ledger
        return made

    @property
    def form(self) -> Form:
        """Most numbers are never asked for it."""
        if isinstance(self._made_of, (Attribute, Width)):
            self._made_of = {frozenset({(self._made_of, 1)}): Fraction(1)}
        return self._made_of

    def _made(self, value: int, form: Form | None) -> int:
        if form is None or all(m == _ONE for m in form):
            return value
        return Number(value, form, self.ledger)

    def __add__(self, other: Any) -> Any:
        value = int.__add__(self, other)
        return value if value is NotImplemented else self._made(value, _sum(self.form, _form(other), 1))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        value = int.__sub__(self, other)
        return value if value is NotImplemented else self._made(value, _sum(self.form, _form(other), -1))

    def __rsub__(self, other: Any) -> Any:
        value = int.__rsub__(self, other)
        return value if value is NotImplemented else self._made(value, _sum(_form(other), self.form, -1))

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            self.ledger.read_as_float(self.form)
        value = int.__mul__(self, other)
        return value if value is NotImplemented else self._made(value, _product(self.form, _form(other)))

    def __rmul__(self, other: Any) -> Any:
        return other.__mul__(int(self)) if isinstance(other, (list, tuple, str)) else self.__mul__(other)

    def __floordiv__(self, other: Any) -> Any:
        value = int.__floordiv__(self, other)
        if value is NotImplemented or not other or int.__mod__(self, other):
            return value
        return self._made(value, _quotient(self.form, _form(other)))

    def __rfloordiv__(self, other: Any) -> Any:
        value = int.__rfloordiv__(self, other)
        if value is NotImplemented or not self or int.__rmod__(self, other):
            return value
        return self._made(value, _quotient(_form(other), self.form))

    def __neg__(self) -> int:
        return self._made(-int(self), {m: -c for m, c in self.form.items()})

    def __truediv__(self, other: Any) -> Any:
        self.ledger.read_as_float(self.form)
        return int.__truediv__(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        self.ledger.read_as_float(self.form)
        return int.__rtruediv__(self, other)

    def __pow__(self, other: Any, *modulo: Any) -> Any:
        value = pow(int(self), other, *modulo)
        if isinstance(value, float) and len(self.form) == 1:
            return Scale(value, self, float(other))
        self.ledger.read_as_float(self.form)
        return value

    def __float__(self) -> float:
        self.ledger.read_as_float(self.form)
        return int.__float__(self)

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)
        if same is True and isinstance(other, Number):
            self.ledger.found_equal(self.form, other.form)
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)


class Scale(float):
    """A constant times `number ** power`, as attention scales by the width of its heads."""

    number: Number
    power: float

    def __new__(cls, value: float, number: Number, power: float) -> Scale:
        made = super().__new__(cls, value)
        made.number, made.power = number, power
        return made

    def _made(self, value: Any, other: Any, power: float) -> Any:
        if isinstance(other, (int, float)) and not isinstance(other, (Number, Scale)):
            return Scale(value, self.number, power)
        self.dropped()
        return value

    def dropped(self) -> None:
        """It ends where nobody follows it: the number may not change."""
        self.number.ledger.read_as_float(self.number.form)

    def __mul__(self, other: Any) -> Any:
        value = float.__mul__(self, other)
        return value if value is NotImplemented else self._made(value, other, self.power)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        value = float.__truediv__(self, other)
        return value if value is NotImplemented else self._made(value, other, self.power)

    def __rtruediv__(self, other: Any) -> Any:
        value = float.__rtruediv__(self, other)
        return value if value is NotImplemented else self._made(value, other, -self.power)

    def __add__(self, other: Any) -> Any:
        self.dropped()
        return float.__add__(self, other)

    __radd__ = __add__

    def __float__(self) -> float:
        self.dropped()
        return float.__float__(self)


def _form(value: Any) -> Form | None:
    if isinstance(value, Number):
        return value.form
    return {_ONE: Fraction(value)} if isinstance(value, int) else None


def _sum(left: Form | None, right: Form | None, sign: int) -> Form | None:
    if left is None or right is None:
        return None
    found = dict(left)
    for monomial, coefficient in right.items():
        found[monomial] = found.get(monomial, Fraction(0)) + sign * coefficient
    return {m: c for m, c in found.items() if c} or {_ONE: Fraction(0)}


def _times(left: Monomial, right: Monomial, sign: int) -> Monomial:
    powers = dict(left)
    for source, power in right:
        powers[source] = powers.get(source, 0) + sign * power
    return frozenset((s, p) for s, p in powers.items() if p)


def _product(left: Form, right: Form | None) -> Form | None:
    if right is None:
        return None
    found: dict[Monomial, Fraction] = {}
    for a, x in left.items():
        for b, y in right.items():
            key = _times(a, b, 1)
            found[key] = found.get(key, Fraction(0)) + x * y
    return {m: c for m, c in found.items() if c} or {_ONE: Fraction(0)}


def _quotient(left: Form | None, right: Form | None) -> Form | None:
    if left is None or right is None or len(right) != 1:
        return None
    ((monomial, coefficient),) = right.items()
    return {_times(m, monomial, -1): c / coefficient for m, c in left.items()} if coefficient else None


# ---------------------------------------------------------------- what the code does with them


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
        form = _form(number) or {_ONE: Fraction(int(number))}
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
            width = _single(a, Width)
            if width is not None and _single(b, Attribute) is not None:
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
        source = _single(number.form, Width) if isinstance(number, Number) else None
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
        return next((use.labels for use in self._uses if _single(use.form, Attribute) == source), None)

    def _settled(
        self, builder: GraphBuilder, use: _Use, following: dict[Attribute, list[tuple[Fraction, _Use]]]
    ) -> bool:
        """Enter one use; False where it has to wait for others."""
        form = self._reduced(use.form, following)
        if all(m == _ONE for m in form):
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


def _single(form: Form, kind: type[Any]) -> Any:
    """The only source of `form`, where it stands for itself and is of `kind`."""
    if len(form) != 1:
        return None
    ((monomial, coefficient),) = form.items()
    if coefficient != 1 or len(monomial) != 1:
        return None
    ((source, power),) = monomial
    return source if power == 1 and isinstance(source, kind) else None


# ---------------------------------------------------------------- attributes of modules

# what torch's own layers keep and user code may read; the layers themselves are set from their tensors
_WIDTHS = frozenset(
    (
        "in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels", "embedding_dim",
        "hidden_size", "input_size", "embed_dim", "d_model", "num_heads", "head_dim", "groups", "normalized_shape",
    )
)  # fmt: skip
_LEAST = 2  # zero and one are no widths that anything could follow
_LONGEST = 64


@contextmanager
def remembered(model: nn.Module, ledger: Ledger) -> Iterator[None]:
    """The whole numbers of all modules, alone or in tuples and lists, are `Number`s; afterwards they are what they were."""
    changed: list[tuple[dict[str, Any], str, Any, Any]] = []
    try:
        for path, module in model.named_modules():
            known = type(module).__module__.startswith("torch.nn.modules")
            for key, value in list(vars(module).items()):
                if known and key not in _WIDTHS:
                    continue
                new = _tagged(value, path, key, ledger)
                if new is not None:
                    vars(module)[key] = new
                    changed.append((vars(module), key, value, new))
        yield
    finally:
        for holder, key, old, new in changed:
            now = holder.get(key)
            if now is new:
                holder[key] = old
            elif isinstance(now, Number):  # the forward counts something
                holder[key] = int(now)


def _tagged(value: Any, path: str, key: str, ledger: Ledger) -> Any:
    if type(value) is int:
        return ledger.attribute(Attribute(path, key, None, value)) if value >= _LEAST else None
    if type(value) in (tuple, list) and 0 < len(value) <= _LONGEST and all(type(v) is int for v in value):
        return type(value)(
            ledger.attribute(Attribute(path, key, i, v)) if v >= _LEAST else v for i, v in enumerate(value)
        )
    return None
