"""Latency as a function of the kept counts: a table a layer, measured at some widths, interpolated between them.

As in NetAdapt (arXiv 1804.03230, section 3.2) the latency of a network is the sum of its layers', each from a table by its widths;
layers that make equal calls share one. Between measured points the value is (bi)linear; beyond them there is none. The sum
is calibrated: `rest` is what no cut changes (the calls of modules, views, what cannot be timed alone), `scale` what
layers take together, compared with alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunecore.errors import ConfigError
from prunecore.measure.forms import Forms
from prunecore.types import Affine

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TimeTable:
    """Seconds of a layer, measured at a grid. points: of one or two axes, ascending. seconds: in row-major order."""

    points: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class LayerTime:
    """One operation of the network. sizes: where it stands on each axis of its table, by the kept counts."""

    name: str
    sizes: tuple[Affine, ...]
    table: int


@dataclass(frozen=True)
class LatencyTables:
    """layers: those whose time depends on widths. fixed: seconds of the other operations together. A network takes
    `rest + scale * (fixed + its layers)`. whole: seconds of the uncut one, measured in the same turns. about: where and how
    all this was measured, in plain values.
    """

    layers: tuple[LayerTime, ...]
    tables: tuple[TimeTable, ...]
    fixed: float
    rest: float
    scale: float
    whole: float
    about: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "layers": [
                [x.name, [[f.constant, list(map(list, f.terms)), f.divisor] for f in x.sizes], x.table]
                for x in self.layers
            ],
            "tables": [[list(map(list, t.points)), list(t.seconds)] for t in self.tables],
            **{key: getattr(self, key) for key in ("fixed", "rest", "scale", "whole")},
            "about": dict(self.about),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> LatencyTables:
        """What `to_dict` gave."""
        layers = [LayerTime(name, tuple(map(_affine, sizes)), table) for name, sizes, table in found["layers"]]
        tables = [TimeTable(tuple(tuple(p) for p in points), tuple(values)) for points, values in found["tables"]]
        numbers = {key: float(found[key]) for key in ("fixed", "rest", "scale", "whole")}
        return cls(tuple(layers), tuple(tables), about=found["about"], **numbers)


def _affine(found: Sequence[Any]) -> Affine:
    constant, terms, divisor = found
    return Affine(constant, tuple((name, coef) for name, coef in terms), divisor)


class LatencyModel:
    """Evaluates tables for many kept counts at once."""

    def __init__(self, tables: LatencyTables, groups: Sequence[str]) -> None:
        """groups: names, in the order of the columns of what is evaluated; KeyError where a layer needs another."""
        self._constant = tables.rest + tables.scale * tables.fixed
        self._scale = tables.scale
        self._names = [layer.name for layer in tables.layers]
        forms = list(dict.fromkeys(f for layer in tables.layers for f in layer.sizes))
        self._forms = Forms.of(forms, {name: i for i, name in enumerate(groups)}, np.int64)
        number = {form: i for i, form in enumerate(forms)}
        # a table of one axis is one of two, the second of which has a single point
        flat = list(itertools.accumulate((len(t.seconds) for t in tables.tables), initial=0))
        self._seconds: Floats = np.concatenate([np.array(t.seconds) for t in tables.tables] or [np.zeros(0)])
        self._start = np.array([flat[layer.table] for layer in tables.layers], dtype=np.int64)
        shapes = [[len(p) for p in t.points] for t in tables.tables]
        self._stride = np.array([(shapes[x.table] + [1])[1] for x in tables.layers], dtype=np.int64)
        self._axes = [_Axis.of(tables, number, axis) for axis in (0, 1)]

    def __call__(self, counts: npt.NDArray[np.int64]) -> Floats:
        """Seconds, shape `(n,)`, at `counts` of shape `(n, groups)`. ConfigError outside of what was measured."""
        return np.asarray(self._constant + self._scale * self.layers(counts).sum(axis=1), dtype=np.float64)

    def layers(self, counts: npt.NDArray[np.int64]) -> Floats:
        """Seconds of each layer alone, shape `(n, layers)`."""
        sizes = self._forms(counts)
        (i, v), (j, w) = (axis.place(sizes, self._names) for axis in self._axes)
        at = self._start + i * self._stride + j
        found = np.zeros(at.shape)
        for down, along, share in ((0, 0, (1 - v) * (1 - w)), (1, 0, v * (1 - w)), (0, 1, (1 - v) * w), (1, 1, v * w)):
            # where a share is 0 the neighbour may not be there
            found += np.where(
                share > 0, self._seconds[np.where(share > 0, at + down * self._stride + along, at)] * share, 0.0
            )
        return found


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of every layer's table. column: of the sizes. places: for every whole number from `low` to `high`, how many
    points lie below, with the fraction of the way to the next; those of all layers in one array, of each from `start`."""

    column: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    places: Floats

    @classmethod
    def of(cls, tables: LatencyTables, number: Mapping[Affine, int], axis: int) -> _Axis:
        rows: list[tuple[int, int, int, int]] = []
        known: dict[tuple[int, ...], int] = {}
        places, length = [np.zeros(1)], 1
        for layer in tables.layers:
            points = tables.tables[layer.table].points
            if axis >= len(points):  # the column behind the last form holds ones
                rows.append((len(number), 1, 1, 0))
                continue
            at = points[axis]
            if at not in known:
                known[at] = length
                places.append(np.interp(np.arange(at[0], at[-1] + 1), at, np.arange(len(at))))
                length += at[-1] - at[0] + 1
            rows.append((number[layer.sizes[axis]], at[0], at[-1], known[at]))
        column, low, high, start = np.array(rows, dtype=np.int64).reshape(len(rows), 4).T
        return cls(column, low, high, start, np.concatenate(places))

    def place(self, sizes: Any, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Of every layer: the point below, and the fraction of the way to the next."""
        found = sizes[:, self.column]
        outside = (found < self.low) | (found > self.high)
        if outside.any():
            layer = int(np.argwhere(outside)[0][1])
            got = int(found[outside][0])
            raise ConfigError(
                f"latency of {names[layer]}: got the width {got}, measured from {self.low[layer]} to {self.high[layer]}; "
                "the tables are not extrapolated: measure them for this target"
            )
        at = self.places[self.start + found - self.low]
        below = np.floor(at).astype(np.int64)
        return below, at - below
