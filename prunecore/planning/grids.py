"""At which widths each operation is timed: the axes that its sizes go along, and the points on them that a plan can reach.

How a size follows the widths is found by cutting one bundle at a time and looking at the operator calls again, so that this
knows no layer: sizes are affine in the kept counts, which a bundle's single cut shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from prunecore.types import Affine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecore.planning.bundles import Bundle

Sizes = tuple[int, ...]
MOST_AXES = 2


@dataclass(frozen=True, eq=False)
class Step:
    """A bundle that may be cut. counts: what its first group may keep, descending, the uncut count first. removed: channels of
    the first group that the trial cut removed. sizes: of every call after it."""

    bundle: Bundle
    counts: tuple[int, ...]
    removed: int
    sizes: Sequence[Sizes]


@dataclass(frozen=True)
class Axis:
    """size: where an operation stands on the axis, by the kept counts. points: ascending values of it. sizes: of every
    point, the values of those sizes of the call that go along this axis, by their places among all."""

    size: Affine
    points: tuple[int, ...]
    sizes: tuple[Mapping[int, int], ...]


def counts_of(bundle: Bundle) -> tuple[int, ...]:
    """What the first group of `bundle` may keep, descending; also uncut, where all that may be asked for is narrower."""
    return tuple(sorted({bundle.groups[0].channels, *map(int, bundle.ladder[:, 0])}, reverse=True))


def axes_of(number: int, whole: Sizes, steps: Sequence[Step], points: int) -> tuple[Axis, ...]:
    """The axes of call `number`, whose sizes are `whole` in the uncut network; none where no width changes it.

    points: on each axis, at most; the ends are always among them. Sizes that shrink in proportion share an axis. Where
    there are more than two, all share one, on which every bundle loses the same fraction.
    """
    slopes = [[_slope(whole[k], step.sizes[number][k], step.removed) for step in steps] for k in range(len(whole))]
    directions: dict[tuple[Fraction, ...], list[int]] = {}
    for k, row in enumerate(slopes):
        first = next((s for s in row if s), None)
        if first is not None:
            directions.setdefault(tuple(s / first for s in row), []).append(k)
    found = list(directions.values())
    if len(found) > MOST_AXES:
        found = [[k for places in found for k in places]]
    return tuple(_axis(places, whole, slopes, steps, points) for places in found)


def _slope(whole: int, cut: int, removed: int) -> Fraction:
    return Fraction(whole - cut, removed)


def _axis(
    places: Sequence[int], whole: Sizes, slopes: Sequence[Sequence[Fraction]], steps: Sequence[Step], points: int
) -> Axis:
    used = [i for i in range(len(steps)) if any(slopes[k][i] for k in places)]
    sizes: dict[int, dict[int, int]] = {}
    total = _form(places, whole, slopes, steps)
    for share in _shares([len(steps[i].counts) for i in used], points):
        gone = {i: steps[i].counts[0] - steps[i].counts[level] for i, level in zip(used, share, strict=True)}
        found = {k: int(whole[k] - sum(slopes[k][i] * gone[i] for i in used)) for k in places}
        sizes[sum(found.values())] = found
    ordered = sorted(sizes)
    return Axis(total, tuple(ordered), tuple(sizes[u] for u in ordered))


def _shares(levels: Sequence[int], points: int) -> list[tuple[int, ...]]:
    """Levels of every bundle at evenly spaced fractions of their ladders; of one bundle alone, each level at most once."""
    fine = min(points, max(levels))
    return [tuple(round(s * (n - 1)) for n in levels) for s in np.linspace(0.0, 1.0, fine)]


def _form(places: Sequence[int], whole: Sizes, slopes: Sequence[Sequence[Fraction]], steps: Sequence[Step]) -> Affine:
    """The sum of the sizes at `places` by the kept counts of the bundles' first groups."""
    slope = [sum((slopes[k][i] for k in places), Fraction(0)) for i in range(len(steps))]
    constant = sum(whole[k] for k in places) - sum(s * step.counts[0] for s, step in zip(slope, steps, strict=True))
    divisor = math.lcm(*(s.denominator for s in slope))
    terms = tuple((step.bundle.names[0], int(s * divisor)) for s, step in zip(slope, steps, strict=True) if s)
    # a constant that is no whole number: the division rounds down what it has to give back

    return Affine(math.ceil(constant), terms, divisor)
