"""The latency tables of a network on this device: which operations follow which widths, then each timed alone."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prunecore.errors import ModelError
from prunecore.measure.calls import Form, OpCall, Sizes, record_calls
from prunecore.measure.stopwatch import FEWEST, TOGETHER, Point, Timed, Timer, time_points
from prunecore.measure.tables import LatencyTables, LayerTime, TimeTable
from prunecore.planning.bundles import bundles_of
from prunecore.planning.grids import Axis, Step, axes_of, counts_of
from prunecore.planning.limits import limits_of
from prunecore.planning.ranking import rank, uniform_scores
from prunecore.types import ExampleInputs, Proposal

if TYPE_CHECKING:
    from torch import nn

    from prunecore.planning.bundles import Bundle
    from prunecore.types import DependencyGraph, Target

Resize = Callable[[Proposal], "nn.Module"]
OVERHEAD = 0.0015  # seconds that a point costs beside its calls
POINTS = (13, 9, 7, 5, 4, 3, 2)  # on an axis: as many as the time is enough for


@dataclass(frozen=True, eq=False)
class Conditions:
    """device, threads: where, with how many. seconds: for all tables. timer: of one call, for tests."""

    device: torch.device
    threads: int
    seconds: float
    timer: Timer | None = None


def tables_of(
    model: nn.Module,
    inputs: ExampleInputs,
    graph: DependencyGraph,
    target: Target,
    *,
    resize: Resize,
    conditions: Conditions,
) -> LatencyTables:
    """Measure the tables of `model`, which lies on the device with its inputs, for every width that `target` can reach.

    resize: the network that a proposal makes of it. ModelError where what the network does depends on its widths.
    """
    begun = time.monotonic()
    calls = record_calls(model, inputs)
    bundles = bundles_of(graph, limits_of(graph, target, frozen=frozenset()), align_all=target.align_all)
    steps = [_step(b, calls, inputs, target, resize) for b in bundles if b.whole is None]
    at_full = time_points(
        [(c.form, c.sizes) for c in calls],
        lambda: _run(model, inputs),
        device=conditions.device,
        seconds=0.0,
        timer=conditions.timer,
    )
    left = conditions.seconds - (time.monotonic() - begun)
    axes, points = _fitting(calls, steps, at_full, left)
    wanted = [(c.form, sizes) for c, a in zip(calls, axes, strict=True) for sizes in _grid(c, a)]
    timed = time_points(
        wanted, lambda: _run(model, inputs), device=conditions.device, seconds=left, timer=conditions.timer
    )
    about = {
        "device": str(conditions.device),
        "threads": conditions.threads,
        "points": points,
        "passes": timed.passes,
        "seconds": time.monotonic() - begun,
    }
    return _assembled(calls, axes, timed, about)


def _run(model: nn.Module, inputs: ExampleInputs) -> Any:
    return model(*inputs.args, **inputs.kwargs)


def _step(bundle: Bundle, calls: Sequence[OpCall], inputs: ExampleInputs, target: Target, resize: Resize) -> Step:
    """The calls after a cut of one bundle, half way down: at the end of its ladder sizes of 1 might be squeezed away."""
    level = bundle.levels // 2
    kept = rank(bundle, uniform_scores(bundle.groups), target).kept(level)
    after = record_calls(resize(Proposal(kept)), inputs)
    if [c.form for c in after] != [c.form for c in calls]:
        raise ModelError(
            f"target.measure latency: the network makes other operator calls once {bundle.names[0]} is narrower, so there "
            "are no tables by width; name it under target.skip, or take target.measure: macs"
        )
    counts = counts_of(bundle)
    return Step(bundle, counts, counts[0] - int(bundle.ladder[level, 0]), [c.sizes for c in after])


def _fitting(
    calls: Sequence[OpCall], steps: Sequence[Step], at_full: Timed, seconds: float
) -> tuple[list[tuple[Axis, ...]], int]:
    """The axes of every call, with as many points as can be timed in `seconds`, and that number."""
    for points in POINTS:
        axes = [axes_of(i, call.sizes, steps, points) for i, call in enumerate(calls)]
        if FEWEST * _pass_seconds(calls, axes, at_full) <= seconds:
            break
    return axes, points


def _pass_seconds(calls: Sequence[OpCall], axes: Sequence[tuple[Axis, ...]], at_full: Timed) -> float:
    """A guess at one pass over all points: a call takes time in proportion to its sizes, is made twice, and compiled."""
    costs: dict[Point, float] = {}
    for call, found in zip(calls, axes, strict=True):
        full = at_full.seconds.get((call.form, call.sizes), 0.0)
        shares = itertools.product(*([u / a.points[-1] for u in a.points] for a in found))
        for sizes, share in zip(_grid(call, found), shares, strict=True):
            costs[call.form, sizes] = 2.5 * full * math.prod(share) + OVERHEAD
    return sum(costs.values()) * (1 + 2 * at_full.whole / max(sum(costs.values()), 1e-9) * len(costs) / TOGETHER)


def _grid(call: OpCall, axes: Sequence[Axis]) -> list[Sizes]:
    """The sizes of the call at every point of its axes, in row-major order."""
    found = []
    for changes in itertools.product(*(axis.sizes for axis in axes)):
        values = dict(enumerate(call.sizes))
        for change in changes:
            values.update(change)
        found.append(tuple(values.values()))
    return found


def _assembled(
    calls: Sequence[OpCall], axes: Sequence[tuple[Axis, ...]], timed: Timed, about: Mapping[str, Any]
) -> LatencyTables:
    """Layers and tables of what was timed; a call that failed at any point is left to what the whole network takes beside."""
    layers, untimed = [], []
    tables: dict[tuple[Form, tuple[Sizes, ...], tuple[tuple[int, ...], ...]], int] = {}
    made: list[TimeTable] = []
    fixed = full = 0.0
    for call, found in zip(calls, axes, strict=True):
        grid = _grid(call, found)
        values = [timed.seconds.get((call.form, sizes)) for sizes in grid]
        if None in values:
            untimed.append(call.name)
            continue
        seconds = tuple(v for v in values if v is not None)
        full += seconds[-1]
        if not found:
            fixed += seconds[-1]
            continue
        points = tuple(a.points for a in found)
        key = (call.form, tuple(grid), points)
        if key not in tables:
            tables[key] = len(made)
            made.append(TimeTable(points, seconds))
        layers.append(LayerTime(call.name, tuple(a.size for a in found), tables[key]))
    rest = timed.whole - full
    scale = 1.0 if rest >= 0 else timed.whole / full
    return LatencyTables(
        tuple(layers), tuple(made), fixed, max(rest, 0.0), scale, timed.whole, {**about, "untimed": untimed}
    )
