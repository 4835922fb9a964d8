"""MACs and parameters as an exact function of the kept counts, cheap enough for thousands of evaluations.

Every size is an affine form of the kept counts (`prunecore.types.Affine`), every cost a product of sizes. Equal forms
are kept once, in compressed sparse rows, so that one evaluation is a gather, a segmented sum and two short products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prunecore.measure.forms import Counts, Forms
from prunecore.measure.tables import LatencyModel
from prunecore.types import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecore.types import DependencyGraph


class CostModel:
    """Evaluates `graph.ops` and `graph.tensors` (parameters only) at kept counts; exact integers."""

    def __init__(self, graph: DependencyGraph) -> None:
        self.groups = tuple(g.name for g in graph.groups)
        self.full: npt.NDArray[np.int64] = np.array([g.channels for g in graph.groups], dtype=np.int64)
        self._position = {name: i for i, name in enumerate(self.groups)}
        parameters = [t for t in graph.tensors if t.is_parameter]
        dtype = _dtype(graph)
        sizes = [f for op in graph.ops for f in op.factors] + [d for t in parameters for d in t.dims]
        forms = list(dict.fromkeys(sizes))
        self._forms = Forms.of(forms, self._position, dtype)
        number = {form: i for i, form in enumerate(forms)}
        self._op_factors = _table([[number[f] for f in op.factors] for op in graph.ops], len(forms))
        self._op_scale: Counts = np.array([op.scale for op in graph.ops], dtype=dtype)
        self._tensor_dims = _table([[number[d] for d in t.dims] for t in parameters], len(forms))
        self._latency = None if graph.latency is None else LatencyModel(graph.latency, self.groups)

    def cost(self, kept: Mapping[str, int]) -> Cost:
        """The cost at kept counts; groups left out are whole. KeyError for a group that the graph does not have."""
        counts = self.full.copy()
        for name, value in kept.items():
            counts[self._position[name]] = value
        return self.at(counts)

    def at(self, counts: npt.NDArray[np.int64]) -> Cost:
        """The cost at `counts` of shape `(groups,)`."""
        macs, params = self.costs(counts[None])
        return Cost(int(macs[0]), int(params[0]), float(self.seconds(counts[None])[0]))

    def costs(self, counts: npt.NDArray[np.int64]) -> tuple[Counts, Counts]:
        """MACs and params, each of shape `(n,)`, at `counts` of shape `(n, groups)` in the order of `groups`."""
        sizes = self._forms(counts)
        macs = (sizes[:, self._op_factors].prod(axis=2) * self._op_scale).sum(axis=1)
        return macs, sizes[:, self._tensor_dims].prod(axis=2).sum(axis=1)

    def seconds(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Latency by the graph's tables, shape `(n,)`; 0 where it has none. ConfigError beyond what was measured."""
        return np.zeros(len(counts)) if self._latency is None else self._latency(counts)


def _table(rows: Sequence[Sequence[int]], padding: int) -> npt.NDArray[np.int64]:
    table = np.full((len(rows), max(map(len, rows), default=1) or 1), padding, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _dtype(graph: DependencyGraph) -> type:
    """int64 where the uncut network's totals fit into it (sizes only shrink), else Python's own integers."""
    widths = graph.widths
    size = {f: abs(f(widths)) + 1 for op in graph.ops for f in op.factors}
    size |= {d: abs(d(widths)) + 1 for t in graph.tensors for d in t.dims}
    total = sum(abs(op.scale) * _product(size[f] for f in op.factors) for op in graph.ops)
    total += sum(_product(size[d] for d in t.dims) for t in graph.tensors)
    return np.int64 if total < 2**62 else object


def _product(values: Iterable[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
