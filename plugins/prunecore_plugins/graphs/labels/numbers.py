"""Whole numbers that remember where they came from: the size of a tensor's dim, or an attribute of a module.

`reshape(B, N, 3, self.heads, C // self.heads)` with C from a tensor's shape says by itself that its last number follows C
and that `self.heads` is a plain number. While the network is traced, sizes and attributes are `Number`s; the rules note
where one is used (`Ledger.use`), and `settle` turns that into attributes that follow a width, widths that must stay equal,
and channels that have to stay because the code holds their number fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecore.types import Indices

if TYPE_CHECKING:
    from prunecore_plugins.graphs.labels.ledger import Ledger


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
ONE: Monomial = frozenset()


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
        if form is None or all(m == ONE for m in form):
            return value
        return Number(value, form, self.ledger)

    def __add__(self, other: Any) -> Any:
        value = int.__add__(self, other)
        return value if value is NotImplemented else self._made(value, _sum(self.form, form_of(other), 1))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        value = int.__sub__(self, other)
        return value if value is NotImplemented else self._made(value, _sum(self.form, form_of(other), -1))

    def __rsub__(self, other: Any) -> Any:
        value = int.__rsub__(self, other)
        return value if value is NotImplemented else self._made(value, _sum(form_of(other), self.form, -1))

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            self.ledger.read_as_float(self.form)
        value = int.__mul__(self, other)
        return value if value is NotImplemented else self._made(value, _product(self.form, form_of(other)))

    def __rmul__(self, other: Any) -> Any:
        return other.__mul__(int(self)) if isinstance(other, (list, tuple, str)) else self.__mul__(other)

    def __floordiv__(self, other: Any) -> Any:
        value = int.__floordiv__(self, other)
        if value is NotImplemented or not other or int.__mod__(self, other):
            return value
        return self._made(value, _quotient(self.form, form_of(other)))

    def __rfloordiv__(self, other: Any) -> Any:
        value = int.__rfloordiv__(self, other)
        if value is NotImplemented or not self or int.__rmod__(self, other):
            return value
        return self._made(value, _quotient(form_of(other), self.form))

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


def form_of(value: Any) -> Form | None:
    if isinstance(value, Number):
        return value.form
    return {ONE: Fraction(value)} if isinstance(value, int) else None


def _sum(left: Form | None, right: Form | None, sign: int) -> Form | None:
    if left is None or right is None:
        return None
    found = dict(left)
    for monomial, coefficient in right.items():
        found[monomial] = found.get(monomial, Fraction(0)) + sign * coefficient
    return {m: c for m, c in found.items() if c} or {ONE: Fraction(0)}


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
    return {m: c for m, c in found.items() if c} or {ONE: Fraction(0)}


def _quotient(left: Form | None, right: Form | None) -> Form | None:
    if left is None or right is None or len(right) != 1:
        return None
    ((monomial, coefficient),) = right.items()
    return {_times(m, monomial, -1): c / coefficient for m, c in left.items()} if coefficient else None


def single(form: Form, kind: type[Any]) -> Any:
    """The only source of `form`, where it stands for itself and is of `kind`."""
    if len(form) != 1:
        return None
    ((monomial, coefficient),) = form.items()
    if coefficient != 1 or len(monomial) != 1:
        return None
    ((source, power),) = monomial
    return source if power == 1 and isinstance(source, kind) else None
