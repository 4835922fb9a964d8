"""Target and saliencies in, an exact plan out: which channels stay, what the network will cost, what stood in the way."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecore.errors import ConfigError, TargetError, listing
from prunecore.planning.bundles import bundles_of
from prunecore.planning.limits import check_reduce, computed, limits_of
from prunecore.planning.ranking import rank
from prunecore.planning.search import Space, approach, settle
from prunecore.types import Cost, Measure, Proposal, Width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecore.planning.bundles import Bundle
    from prunecore.planning.ranking import Ranked
    from prunecore.types import DependencyGraph, Indices, Target

TOLERANCE = 0.005  # of the size, without `multiple_of`
LATENCY_TOLERANCE = 0.02  # a measurement with an interval of its own


@dataclass(frozen=True, eq=False)
class Plan:
    """proposal: the channels that stay. cost: of the cut network, exact. size: what is left of the target's measure.
    notes: what stood in the way. widths: the groups that are cut."""

    proposal: Proposal
    cost: Cost
    size: float
    notes: tuple[str, ...] = ()
    widths: tuple[Width, ...] = ()


@dataclass(frozen=True)
class Reach:
    """What the limits of a target leave open. Sizes are what is left of the measure.

    largest: as little cut as may be (1, or less where `align_all` cuts anyway). smallest: all cut that may go.
    tolerance: by how much a size may miss (0 with `multiple_of`). notes: what limits it.
    """

    smallest: float
    largest: float
    most: Cost
    least: Cost
    measure: Measure
    tolerance: float
    notes: tuple[str, ...] = ()

    def require(self, reduce: float) -> None:
        """TargetError with the reachable range where `reduce` is out of it."""
        check_reduce(reduce)
        if self.smallest <= 1.0 - reduce + self.tolerance + 1e-12:
            return
        limits = "; ".join(self.notes) or "no group may be cut"
        raise TargetError(
            f"target.reduce: {reduce:g} of {self.measure} is out of reach; between {_percent(1.0 - self.largest)} and "
            f"{_percent(_down(1.0 - self.smallest))} can go. What limits it: {limits}"
        )


def reachable(
    graph: DependencyGraph,
    target: Target,
    *,
    original: Cost | None = None,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> Reach:
    """The range of sizes that `target`'s limits leave open; its `reduce` plays no part.

    original: the cost that sizes count from (default: the graph's own). frozen: names of groups given up.
    widths: channel counts that `max_reduction` counts from (default: the graph's own).
    """
    bundles = bundles_of(graph, limits_of(graph, target, frozen=frozen, widths=widths), align_all=target.align_all)
    return _reach(_Problem.of(graph, bundles, target, original), bundles, target)


def plan(
    graph: DependencyGraph,
    scores: Mapping[str, Any],
    target: Target,
    *,
    original: Cost | None = None,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> Plan:
    """The channels to keep so that `1 - target.reduce` of the original's measure is left.

    scores[group]: saliency, shape `(channels,)`, higher = keep; a torch tensor or a numpy array. Without `multiple_of`
    the size is within 0.005 of the goal or a note says why not; with it never above the goal, and no step fits back.
    The other arguments as for `reachable`. Raises TargetError with the reachable range before any other work,
    ConfigError for values out of range, patterns without a match and saliencies that are missing or not finite.
    """
    if target.measure == "ptflops":
        raise ConfigError("target.measure ptflops is measured, not computed: use prunecore.planning.plan_measured")
    bundles = bundles_of(graph, limits_of(graph, target, frozen=frozen, widths=widths), align_all=target.align_all)
    problem = _Problem.of(graph, bundles, target, original)
    _reach(problem, bundles, target).require(target.reduce)
    ranked = [rank(b, scores, target) for b in problem.free]
    state = _search(problem, ranked, target)
    return _plan(problem, bundles, ranked, state, target, widths=widths)


@dataclass(frozen=True, eq=False)
class _Problem:
    """free: the bundles that may be cut. total: the original's measure. goal: the value to come down to."""

    free: tuple[Bundle, ...]
    space: Space
    total: float
    goal: float

    @classmethod
    def of(cls, graph: DependencyGraph, bundles: Sequence[Bundle], target: Target, original: Cost | None) -> _Problem:
        free = tuple(b for b in bundles if b.whole is None)
        measure = computed(graph, target.measure)
        space = Space(graph, free, measure)
        if original is None:
            original = Space(graph, (), measure).cost(np.empty(0, dtype=np.int64))
        # an empty network has nothing to remove, and nothing to divide by
        total = float(original.of(measure)) or 1.0
        return cls(free, space, total, (1.0 - target.reduce + 1e-12) * total)

    @property
    def start(self) -> Indices:
        return np.zeros(len(self.free), dtype=np.int64)

    def size(self, state: Indices) -> float:
        return self.space.value(state) / self.total


def _search(problem: _Problem, ranked: Sequence[Ranked], target: Target) -> Indices:
    if target.reduce == 0.0:
        return problem.start
    tolerance = None if target.multiple_of is not None else TOLERANCE * problem.total
    state, threshold = settle(problem.space, ranked, problem.goal, tolerance)
    if tolerance is None:
        return state
    return approach(problem.space, ranked, state, threshold=threshold, goal=problem.goal, tolerance=tolerance)


def _plan(
    problem: _Problem,
    bundles: Sequence[Bundle],
    ranked: Sequence[Ranked],
    state: Indices,
    target: Target,
    *,
    widths: Mapping[str, int] | None,
) -> Plan:
    closed = problem.space.close(state[None])[0]
    kept = {name: stays for r, level in zip(ranked, closed, strict=True) for name, stays in r.kept(int(level)).items()}
    size = problem.size(state)
    notes = [note for r in ranked for note in r.notes]
    if target.multiple_of is not None:
        notes += _unaligned(bundles, widths)
    notes += _miss(problem, size, target)
    before = {g.name: g.channels for b in problem.free for g in b.groups}
    cut = tuple(Width(name, before[name], len(stays)) for name, stays in kept.items())
    return Plan(Proposal(kept, reduce=target.reduce), problem.space.cost(state), size, tuple(notes), cut)


def _miss(problem: _Problem, size: float, target: Target) -> list[str]:
    """Why the size is not the one asked for, where it is not."""
    wanted = 1.0 - target.reduce
    start = problem.size(problem.start)
    if start < wanted - TOLERANCE and size >= start - 1e-12:
        cause = "aligning alone removes that much" if target.align_all else "the network is that small already"
        return [f"size {size:.4f} is below the {wanted:.4f} asked for: {cause}"]
    if target.multiple_of is None and abs(size - wanted) > TOLERANCE and target.reduce > 0.0:
        what = "was found: latency falls in steps" if target.measure == "latency" else "whole channels allow"
        return [f"size {size:.4f} is the closest to {wanted:.4f} that {what} within the limits"]
    return []


def plan_least(
    graph: DependencyGraph,
    scores: Mapping[str, Any],
    target: Target,
    *,
    original: Cost | None = None,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> Plan:
    """As `plan`, whatever `target` asks for: the smallest network in reach."""
    reach = reachable(graph, target, original=original, frozen=frozen, widths=widths)
    most = dataclasses.replace(target, reduce=max(0.0, 1.0 - reach.smallest))
    return plan(graph, scores, most, original=original, frozen=frozen, widths=widths)


def margins(target: Target) -> tuple[float, float]:
    """By how much a size that was measured or found may be below and above what was asked for."""
    if target.measure == "latency":
        return LATENCY_TOLERANCE, LATENCY_TOLERANCE
    return TOLERANCE, 1e-12 if target.multiple_of else TOLERANCE


def fits(size: float, target: Target) -> bool:
    """Whether the size is the one asked for, within the margins."""
    below, above = margins(target)
    return -below <= size - (1.0 - target.reduce) <= above


def remarks(
    graph: DependencyGraph,
    target: Target,
    size: float,
    *,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """What `plan` would note of a network of this size, for one that was cut group by group: groups that `multiple_of` leaves
    whole, and a size that is not the one asked for. The arguments as for `reachable`."""
    notes = []
    if target.multiple_of is not None:
        bundles = bundles_of(graph, limits_of(graph, target, frozen=frozen, widths=widths), align_all=target.align_all)
        notes += _unaligned(bundles, widths)
    wanted = 1.0 - target.reduce
    if target.reduce > 0.0 and not fits(size, target):
        side = "below" if size < wanted else "above"
        what = "the search" if target.multiple_of is None else f"the cuts chosen in multiples of {target.multiple_of}"
        notes.append(f"size {size:.4f} is {side} the {wanted:.4f} asked for: {what} came no nearer")
    return tuple(notes)


def with_remarks(notes: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """The notes of a cut with those of `remarks` that it lacks; of the size, planned or measured, it says more."""
    sized = any(note.startswith(("size ", "latency: ")) for note in notes)
    return tuple(dict.fromkeys([*notes, *(n for n in found if not (sized and n.startswith("size ")))]))


# ---------------------------------------------------------------- what is in reach


def _reach(problem: _Problem, bundles: Sequence[Bundle], target: Target) -> Reach:
    most = problem.space.cost(problem.start)
    end = problem.space.levels - 1
    least = problem.space.cost(end)
    return Reach(
        smallest=problem.size(end),
        largest=problem.size(problem.start),
        most=most,
        least=least,
        measure=target.measure,
        tolerance=0.0 if target.multiple_of is not None else TOLERANCE,
        notes=tuple(_limit_notes(bundles, target)),
    )


def _limit_notes(bundles: Sequence[Bundle], target: Target) -> list[str]:
    notes = _whole_notes([b for b in bundles if b.whole is not None])
    if target.min_channels > 1:
        notes.append(f"min_channels {target.min_channels}")
    if target.max_reduction < 1.0:
        notes.append(f"max_reduction {target.max_reduction:g}")
    if target.multiple_of is not None:
        notes.append(f"multiple_of {target.multiple_of}")
    return notes or ["at least one channel of every group stays"]


def _unaligned(bundles: Sequence[Bundle], widths: Mapping[str, int] | None) -> list[str]:
    """Groups that `multiple_of` leaves whole; not those that an earlier cut brought there, where `widths` are those before it."""
    whole = [b for b in bundles if b.whole is not None and b.whole.startswith("multiple_of")]
    loaded = widths or {}
    return _whole_notes([b for b in whole if all(g.channels >= loaded.get(g.name, 0) for g in b.groups)])


def _whole_notes(bundles: Sequence[Bundle]) -> list[str]:
    """One note a reason: `6 groups stay whole (a, b, c, d (and 2 more)): skip 'layer4.*'`."""
    by_reason: dict[str, list[str]] = {}
    for bundle in bundles:
        by_reason.setdefault(bundle.whole or "", []).extend(bundle.names)
    return [
        f"{len(names)} {'group stays' if len(names) == 1 else 'groups stay'} whole ({listing(names, most=4)}): {reason}"
        for reason, names in by_reason.items()
    ]


def _down(fraction: float) -> float:
    """To a tenth of a percent, never up: what is named as reachable is."""
    return math.floor(1000.0 * fraction + 1e-9) / 1000.0


def _percent(fraction: float) -> str:
    return f"{100.0 * fraction:.1f} %"
