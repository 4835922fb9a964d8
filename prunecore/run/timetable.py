"""The latency tables of a network on this device: which operations follow which widths, then each timed alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prunecore.errors import ModelError
from prunecore.measure.calls import Form, OpCall, Sizes, record_calls
from prunecore.measure.stopwatch import FEWEST, ROUNDS, TOGETHER, Point, Timed, Timer, time_points, timer_of
from prunecore.measure.tables import LatencyModel, LatencyTables, LayerTime, TimeTable
from prunecore.planning.bundles import bundles_of
from prunecore.planning.grids import Axis, Step, axes_of, counts_of
from prunecore.planning.limits import limits_of
from prunecore.planning.ranking import rank, uniform_scores
from prunecore.types import ExampleInputs, Proposal

if TYPE_CHECKING:
    from torch import nn

    from prunecore.planning.bundles import Bundle
    from prunecore.types import DependencyGraph, Indices, Target

POINTS = (9, 7, 5, 4, 3, 2)  # on an axis: as many as the time is enough for
OVERHEAD = 0.002  # seconds that a point costs in a pass, beside its calls


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured. model, inputs: on the device. resize(proposal): the network that a proposal makes of the model."""

    model: nn.Module
    inputs: ExampleInputs
    graph: DependencyGraph
    target: Target
    resize: Callable[[Proposal], nn.Module]


@dataclass(frozen=True, eq=False)
class Conditions:
    """device, threads: where, with how many. seconds: for all tables together. timer: of a call, where not the clock."""

    device: torch.device
    threads: int
    seconds: float
    timer: Timer | None = None


def measure_tables(subject: Subject, conditions: Conditions) -> LatencyTables:
    """The tables of every width that the target can reach, calibrated by two whole networks: uncut, and about half cut.

    ModelError where what the network does depends on its widths.
    """
    begun = time.monotonic()
    calls = record_calls(subject.model, subject.inputs)
    limits = limits_of(subject.graph, subject.target, frozen=frozenset())
    bundles = bundles_of(subject.graph, limits, align_all=subject.target.align_all)
    free = [bundle for bundle in bundles if bundle.whole is None]
    steps = [_step(subject, bundle, calls) for bundle in free]
    halves = _half(subject, free)
    networks = [_runs(subject.model, subject.inputs), _runs(subject.resize(Proposal(halves)), subject.inputs)]
    timer = conditions.timer or timer_of(conditions.device, conditions.threads)

    def timed(points: Sequence[Point], seconds: float) -> Timed:
        with torch.inference_mode():
            return time_points(points, networks, timer=timer, device=conditions.device, seconds=seconds)

    first = timed([(call.form, call.sizes) for call in calls], 0.0)
    left = conditions.seconds - (time.monotonic() - begun)
    axes, points = _fitting(calls, steps, first, left)
    found = timed(_like_networks(calls, axes), left)
    tables, untimed = _assembled(calls, axes, found)
    about = {
        "device": str(conditions.device),
        "threads": conditions.threads,
        "points": points,
        "turns": found.passes * ROUNDS,
        "untimed": untimed,
        "seconds": time.monotonic() - begun,
    }
    counts = {name: len(index) for name, index in halves.items()}
    return dataclasses.replace(_calibrated(tables, subject.graph, counts, found.whole), about=about)


def _runs(model: nn.Module, inputs: ExampleInputs) -> Callable[[], Any]:
    return lambda: model(*inputs.args, **inputs.kwargs)


# ---------------------------------------------------------------- what follows which width


def _half(subject: Subject, bundles: Sequence[Bundle]) -> dict[str, Indices]:
    """What stays where every bundle is half way down its ladder."""
    ranked = [rank(b, uniform_scores(b.groups), subject.target) for b in bundles]
    return {name: stays for r in ranked for name, stays in r.kept(r.bundle.levels // 2).items()}


def _step(subject: Subject, bundle: Bundle, calls: Sequence[OpCall]) -> Step:
    """The calls after a cut of one bundle, half way down: at the end of its ladder sizes of 1 might be squeezed away."""
    after = record_calls(subject.resize(Proposal(_half(subject, [bundle]))), subject.inputs)
    if [c.form for c in after] != [c.form for c in calls]:
        raise ModelError(
            f"target.measure latency: the network makes other operator calls once {bundle.names[0]} is narrower, so there "
            "are no tables by width; name it under target.skip, or take target.measure: macs"
        )
    counts = counts_of(bundle)
    return Step(bundle, counts, counts[0] - int(bundle.ladder[bundle.levels // 2, 0]), [c.sizes for c in after])


# ---------------------------------------------------------------- at which widths


def _fitting(
    calls: Sequence[OpCall], steps: Sequence[Step], first: Timed, seconds: float
) -> tuple[list[tuple[Axis, ...]], int]:
    """The axes of every call, with as many points as can be timed in `seconds`, and that number."""
    for points in POINTS:
        axes = [axes_of(i, call.sizes, steps, points) for i, call in enumerate(calls)]
        if FEWEST * _pass_seconds(calls, axes, first) <= seconds:
            break
    return axes, points


def _pass_seconds(calls: Sequence[OpCall], axes: Sequence[tuple[Axis, ...]], first: Timed) -> float:
    """A guess at one pass: a call takes time in proportion to its sizes, in every round and once before."""
    costs = {
        (call.form, sizes): (ROUNDS + 1) * first.seconds.get((call.form, call.sizes), 0.0) * math.prod(share)
        for call, found in zip(calls, axes, strict=True)
        for sizes, share in _grid(call, found)
    }
    batches = math.ceil(len(costs) / TOGETHER)
    return sum(costs.values()) + OVERHEAD * len(costs) + batches * (ROUNDS + 1) * sum(first.whole)


def _like_networks(calls: Sequence[OpCall], axes: Sequence[tuple[Axis, ...]]) -> list[Point]:
    """All points, those that lose a like fraction together: the caches are then as full as in a network cut that far."""
    left: dict[Point, float] = {}
    for call, found in zip(calls, axes, strict=True):
        for sizes, share in _grid(call, found):
            left.setdefault((call.form, sizes), sum(share) / len(share) if share else 1.0)
    return sorted(left, key=lambda point: -left[point])


def _grid(call: OpCall, axes: Sequence[Axis]) -> list[tuple[Sizes, tuple[float, ...]]]:
    """The sizes of the call at every point of its axes, in row-major order, and what fraction of each axis that is."""
    found = []
    for places in itertools.product(*(range(len(axis.points)) for axis in axes)):
        values = dict(enumerate(call.sizes))
        for axis, place in zip(axes, places, strict=True):
            values.update(axis.sizes[place])
        share = tuple(axis.points[place] / axis.points[-1] for axis, place in zip(axes, places, strict=True))
        found.append((tuple(values.values()), share))
    return found


# ---------------------------------------------------------------- tables


def _assembled(
    calls: Sequence[OpCall], axes: Sequence[tuple[Axis, ...]], timed: Timed
) -> tuple[LatencyTables, list[str]]:
    """Layers and tables of what was timed, and the calls that failed at some point: they are in what no table explains."""
    layers, untimed, fixed = [], [], 0.0
    tables: dict[tuple[Form, tuple[Sizes, ...]], int] = {}
    made: list[TimeTable] = []
    for call, found in zip(calls, axes, strict=True):
        grid = tuple(sizes for sizes, _ in _grid(call, found))
        seconds = [timed.seconds[call.form, sizes] for sizes in grid if (call.form, sizes) in timed.seconds]
        if len(seconds) < len(grid):
            untimed.append(call.name)
        elif not found:
            fixed += seconds[0]
        else:
            if (call.form, grid) not in tables:
                tables[call.form, grid] = len(made)
                made.append(TimeTable(tuple(a.points for a in found), tuple(seconds)))
            layers.append(LayerTime(call.name, tuple(a.size for a in found), tables[call.form, grid]))
    return LatencyTables(
        tuple(layers), tuple(made), fixed, rest=0.0, scale=1.0, whole=timed.whole[0], about={}
    ), untimed


def _calibrated(
    tables: LatencyTables, graph: DependencyGraph, half: Mapping[str, int], whole: Sequence[float]
) -> LatencyTables:
    """`rest` and `scale`, such that the uncut network and the one cut by half take what they took.

    No rest below 0, and none where the halves say nothing: then the layers are scaled to the uncut network alone.
    """
    counts = np.array([[g.channels, half.get(g.name, g.channels)] for g in graph.groups], dtype=np.int64).T
    full, less = LatencyModel(tables, [g.name for g in graph.groups])(counts)
    scale = (whole[0] - whole[1]) / (full - less) if full > less else 0.0
    rest = whole[0] - scale * full
    if scale <= 0.0 or rest < 0.0:
        scale, rest = (whole[0] / full, 0.0) if full > 0.0 else (1.0, whole[0])
    return dataclasses.replace(tables, rest=float(rest), scale=float(scale))
