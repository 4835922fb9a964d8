"""Plans for measures that must be measured: ptflops, and whatever else a callable can tell of a proposal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from prunecore.errors import TargetError
from prunecore.planning.limits import computed
from prunecore.planning.planner import Plan, Reach, fits, margins, plan, plan_least, reachable
from prunecore.planning.ranking import uniform_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prunecore.types import Cost, DependencyGraph, Proposal, Target

MOST_MEASUREMENTS = 6
LATENCY_MEASUREMENTS = 4  # each takes seconds


def plan_measured(
    graph: DependencyGraph,
    scores: Mapping[str, Any],
    target: Target,
    cost_of: Callable[[Proposal], float],
    *,
    original: Cost | None = None,
    frozen: frozenset[str] = frozenset(),
    widths: Mapping[str, int] | None = None,
) -> Plan:
    """As `plan`, where `cost_of(proposal)` measures the size (cut, run, count), at most 6 times (latency: 4).

    What the graph computes (latency by its tables; else MACs) stands in for the measure: it is planned exactly, and the
    reduction asked of it is moved by the secant of what was measured, between the nearest miss on either side. The plan's
    `size` is the measured one: within 0.005 of the goal, with `multiple_of` never above it; latency within 0.02. Raises
    TargetError where even the smallest network in reach measures larger than asked for.
    """
    inner = dataclasses.replace(target, measure=computed(graph, target.measure))
    most = _most(target)
    reach = reachable(graph, inner, original=original, frozen=frozen, widths=widths)
    wanted, last = 1.0 - target.reduce, max(0.0, 1.0 - reach.smallest)

    def attempt(reduce: float) -> Plan:
        goal = dataclasses.replace(inner, reduce=reduce)
        made = plan(graph, scores, goal, original=original, frozen=frozen, widths=widths)
        return dataclasses.replace(made, size=cost_of(made.proposal))

    tried: dict[float, Plan] = {}
    reduce = min(target.reduce, last)
    while len(tried) < most:
        tried[reduce] = attempt(reduce)
        if fits(tried[reduce].size, target):
            break
        if reduce >= last and tried[reduce].size > wanted + margins(target)[1]:
            raise _out_of_reach(target, tried[reduce].size, reach)
        following = _next({r: p.size for r, p in tried.items()}, wanted, reach.largest, last)
        if following in tried:
            break
        reduce = following
    best = _best(list(tried.values()), target)
    again = _corrections([(1.0 - r, p.size) for r, p in tried.items()], target)
    return dataclasses.replace(
        best,
        proposal=dataclasses.replace(best.proposal, reduce=target.reduce),
        notes=(*best.notes, *again, *_miss(best.size, target)),
    )


def require_measured(graph: DependencyGraph, target: Target, cost_of: Callable[[Proposal], float]) -> None:
    """TargetError where even the smallest network in reach measures larger than asked for: what `plan_measured` would say."""
    inner = dataclasses.replace(target, measure=computed(graph, target.measure))
    size = cost_of(plan_least(graph, uniform_scores(graph.groups), inner).proposal)
    if size > 1.0 - target.reduce + margins(target)[1]:
        raise _out_of_reach(target, size, reachable(graph, inner))


def _out_of_reach(target: Target, size: float, reach: Reach) -> TargetError:
    return TargetError(
        f"target.reduce: {target.reduce:g} of {target.measure} is out of reach; at most {100.0 * (1.0 - size):.1f} % can go. "
        f"What limits it: {'; '.join(reach.notes)}"
    )


def _most(target: Target) -> int:
    return LATENCY_MEASUREMENTS if target.measure == "latency" else MOST_MEASUREMENTS


def _best(plans: list[Plan], target: Target) -> Plan:
    """The nearest; with `multiple_of` the nearest of those that are not above the goal, if there is one."""
    wanted = 1.0 - target.reduce
    exact = target.multiple_of and target.measure != "latency"
    below = [p for p in plans if p.size <= wanted + 1e-12] if exact else []
    return min(below or plans, key=lambda p: abs(p.size - wanted))


def _miss(size: float, target: Target) -> list[str]:
    if fits(size, target):
        return []
    return [f"{target.measure}: size {size:.4f} is the closest to {1.0 - target.reduce:.4f} in {_most(target)} tries"]


def _corrections(tried: list[tuple[float, float]], target: Target) -> list[str]:
    """What the tables were asked for and what came of it, where latency had to be planned again."""
    if target.measure != "latency" or len(tried) < 2:
        return []
    told = ", ".join(f"{asked:.3f} -> {measured:.3f}" for asked, measured in tried)
    return [f"latency: planned {len(tried)} times, size asked of the tables -> measured: {told}"]


def _next(sizes: Mapping[float, float], wanted: float, largest: float, last: float) -> float:
    """The next reduction: the chord between the nearest points around the goal, cut off so that it always moves."""
    low = max(((r, s) for r, s in sizes.items() if s > wanted), default=(max(0.0, 1.0 - largest), largest))
    high = min(((r, s) for r, s in sizes.items() if s <= wanted), default=None)
    if high is None:
        # nothing small enough yet: by the shortfall, with a little on top
        return min(last, low[0] + 1.2 * (low[1] - wanted) + 1e-4)
    span = high[0] - low[0]
    if low[1] <= high[1]:
        return low[0] + span / 2
    guess = low[0] + span * (low[1] - wanted) / (low[1] - high[1])
    return min(max(guess, low[0] + 0.05 * span), high[0] - 0.05 * span)
