"""The ask/tell loop: an algorithm yields proposals, is sent the candidates made of them, returns the chosen one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from prunecore.errors import ConfigError, PluginError
from prunecore.hookspecs import hookimpl
from prunecore.types import Candidate, Proposal, Target

Search = Generator[Sequence[Proposal], Sequence[Candidate], Candidate]


@dataclass(frozen=True, eq=False)
class Problem:
    """What a search is given.

    start: the network as loaded (candidate 0). schedule: cumulative reductions, the last one the target. plan(candidate,
    reduce): the exact proposal, by the criterion in use, that cuts `candidate` to that cumulative reduction.
    """

    start: Candidate
    target: Target
    schedule: tuple[float, ...]
    seed: int
    plan: Callable[[Candidate, float], Proposal]


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
    """Cut to each cumulative reduction in turn, always from the newest candidate."""
    best = problem.start
    for reduce in problem.schedule:
        (best,) = yield [problem.plan(best, reduce)]
    return best


def drive(search: Search, realise: Callable[[Proposal, int], Candidate], *, start: int = 1) -> Candidate:
    """Run the generator to its end. Candidates are numbered from `start` in the order of their proposals."""
    number = start
    try:
        proposals = next(search)
        while True:
            if not proposals:
                raise ConfigError("the search proposed nothing; give it at least one channel group that may be cut")
            candidates = []
            for proposal in proposals:
                candidates.append(realise(proposal, number))
                number += 1
            proposals = search.send(candidates)
    except StopIteration as stop:
        chosen = stop.value
    if not isinstance(chosen, Candidate):
        raise PluginError(f"the search returned {type(chosen).__name__}, expected the chosen Candidate")
    return chosen
