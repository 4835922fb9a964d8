"""Plans for measures that must be measured: ptflops, and whatever else a callable can tell of a proposal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from prunecore.errors import TargetError
from prunecore.planning.planner import TOLERANCE, Plan, plan, reachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prunecore.types import Cost, DependencyGraph, Proposal, Target

MOST_MEASUREMENTS = 6


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
    """As `plan`, where `cost_of(proposal)` measures the size (cut, run, count), at most 6 times.

    MACs stand in for the measure: they are planned exactly, and the reduction asked of them is moved by the secant of
    what was measured, between the nearest miss on either side. The plan's `size` is the measured one. Raises TargetError
    where even the smallest network in reach measures larger than asked for.
    """
    inner = dataclasses.replace(target, measure="params" if target.measure == "params" else "macs")
    reach = reachable(graph, inner, original=original, frozen=frozen, widths=widths)
    wanted, last = 1.0 - target.reduce, max(0.0, 1.0 - reach.smallest)

    def attempt(reduce: float) -> Plan:
        goal = dataclasses.replace(inner, reduce=reduce)
        made = plan(graph, scores, goal, original=original, frozen=frozen, widths=widths)
        return dataclasses.replace(made, size=cost_of(made.proposal))

    tried: dict[float, Plan] = {}
    reduce = min(target.reduce, last)
    while len(tried) < MOST_MEASUREMENTS:
        tried[reduce] = attempt(reduce)
        if _fits(tried[reduce].size, target):
            break
        if reduce >= last and tried[reduce].size > wanted + (0.0 if target.multiple_of else TOLERANCE):
            raise TargetError(
                f"target.reduce: {target.reduce:g} of {target.measure} is out of reach; at most "
                f"{100.0 * (1.0 - tried[reduce].size):.1f} % can go. What limits it: {'; '.join(reach.notes)}"
            )
        following = _next({r: p.size for r, p in tried.items()}, wanted, reach.largest, last)
        if following in tried:
            break
        reduce = following
    best = _best(list(tried.values()), target)
    return dataclasses.replace(
        best,
        proposal=dataclasses.replace(best.proposal, reduce=target.reduce),
        notes=(*best.notes, *_miss(best.size, target)),
    )


def _fits(size: float, target: Target) -> bool:
    wanted = 1.0 - target.reduce
    return wanted - TOLERANCE <= size <= wanted + (1e-12 if target.multiple_of else TOLERANCE)


def _best(plans: list[Plan], target: Target) -> Plan:
    """The nearest; with `multiple_of` the nearest of those that are not above the goal, if there is one."""
    wanted = 1.0 - target.reduce
    below = [p for p in plans if p.size <= wanted + 1e-12] if target.multiple_of else []
    return min(below or plans, key=lambda p: abs(p.size - wanted))


def _miss(size: float, target: Target) -> list[str]:
    if _fits(size, target):
        return []
    return [
        f"{target.measure}: size {size:.4f} is the closest to {1.0 - target.reduce:.4f} in {MOST_MEASUREMENTS} tries"
    ]


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
