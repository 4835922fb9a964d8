"""The ask/tell loop: an algorithm yields proposals, is sent the candidates made of them, returns the chosen one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from prunecore.errors import ConfigError, PluginError
from prunecore.hookspecs import hookimpl
from prunecore.planning import BlockCut
from prunecore.types import Candidate, Proposal, Target

Search = Generator[Sequence[Proposal], Sequence[Candidate], Candidate]


@dataclass(frozen=True, eq=False)
class Problem:
    """What a search is given.

    start: the network as loaded (candidate 0). schedule: cumulative reductions, the last one the target. plan(candidate,
    reduce): the exact proposal, by the criterion in use, that cuts `candidate` to that cumulative reduction.
    block_cuts(candidate, delta, saving): for every block of `candidate` that can shrink, the cut that removes `delta` of it, or
    that removes `saving` of the measure where that is not None.
    """

    start: Candidate
    target: Target
    schedule: tuple[float, ...]
    seed: int
    plan: Callable[[Candidate, float], Proposal]
    block_cuts: Callable[[Candidate, float, float | None], tuple[BlockCut, ...]]


def check_schedule(schedule: Sequence[float], target: Target) -> tuple[float, ...]:
    """The schedule as a tuple; PluginError unless it ascends within [0, 1) and ends at the target."""
    values = tuple(float(s) for s in schedule)
    ascending = all(a <= b for a, b in itertools.pairwise(values))
    if not values or not ascending or values[0] < 0 or abs(values[-1] - target.reduce) > 1e-9:
        raise PluginError(f"schedule: got {values}, expected ascending reductions that end at {target.reduce}")
    return values


class DefaultSearch:
    """One round a step of the schedule, one exactly planned proposal a round (one-shot: a schedule of one step)."""

    @hookimpl(trylast=True)
    def prune_schedule(self, target: Target) -> tuple[float, ...]:
        return (target.reduce,)

    @hookimpl(trylast=True)
    def prune_search(self, problem: Problem) -> Search:
        return walk_schedule(problem)


def walk_schedule(problem: Problem) -> Search:
    """Cut to each cumulative reduction in turn, always from the newest candidate; where it stays the same, only train."""
    best, reached = problem.start, 0.0
    for reduce in problem.schedule:
        aligns = best is problem.start and problem.target.align_all
        stays = reduce == reached and not aligns
        (best,) = yield [Proposal({}, best.number, reduce) if stays else problem.plan(best, reduce)]
        reached = reduce
    return best


def drive(
    search: Search, realise: Callable[[Sequence[Proposal], int], Sequence[Candidate]], *, start: int = 1
) -> Candidate:
    """Run the generator to its end. Candidates are numbered from `start` in the order of their proposals.

    realise(proposals, number): the candidates made of them, the first of which has that number.
    """
    number = start
    try:
        proposals = next(search)
        while True:
            if not proposals:
                raise ConfigError("the search proposed nothing; give it at least one channel group that may be cut")
            candidates = realise(proposals, number)
            number += len(candidates)
            proposals = search.send(candidates)
    except StopIteration as stop:
        chosen = stop.value
    if not isinstance(chosen, Candidate):
        raise PluginError(f"the search returned {type(chosen).__name__}, expected the chosen Candidate")
    return chosen
