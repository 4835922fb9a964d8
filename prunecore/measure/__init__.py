"""What a network costs: the cost model of a graph, an independent counter, ptflops beside it, and latency on this device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunecore.measure.cost import CostModel
    from prunecore.measure.counter import TracedOp, count, trace_ops
    from prunecore.measure.latency import Latency, Ratio, Timing, measure_latency
    from prunecore.measure.ptflops import ptflops_cost

__all__ = [
    "CostModel",
    "Latency",
    "Ratio",
    "Timing",
    "TracedOp",
    "count",
    "measure_latency",
    "ptflops_cost",
    "trace_ops",
]

# the planner needs the cost model without torch, so every name is loaded when it is first used
_HOMES = {
    "CostModel": "cost",
    "Latency": "latency",
    "Ratio": "latency",
    "Timing": "latency",
    "TracedOp": "counter",
    "count": "counter",
    "measure_latency": "latency",
    "ptflops_cost": "ptflops",
    "trace_ops": "counter",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
