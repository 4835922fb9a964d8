"""The same for a fraction of the images: blocks are priced by forward passes, and the exact planner spends the prices.

Every round, one forward-only trial a block says what its channels cost in loss. Prices become sensitivities of the planner, which
so makes a few whole allocations of the wanted size; these are tuned, few batches first, and the one with the lowest loss is kept.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from prunecore import Candidate, Problem, Proposal

from .common import Steps, first_cuts, last_training, reached, survivors, tune_of

if TYPE_CHECKING:
    from prunecore.planning import BlockCut

    from . import NetAdapt

Turn = Generator[Sequence[Proposal], Sequence[Candidate], Mapping[str, float]]
Choice = Generator[Sequence[Proposal], Sequence[Candidate], tuple[str, Proposal, float]]

_LEAST = 1e-3  # of the loss: a cut that costs less is as good as free
_FEW = 4  # the part of the batches that comes first, where allocations are halved
CRITERION: Final = "criterion"
PRICE: Final = "price"
RATE: Final = "rate"
_SPELT = {CRITERION: "the criterion alone", PRICE: "what blocks cost", RATE: "what blocks cost per saving"}


def fast_search(problem: Problem, options: NetAdapt.Options) -> Steps:
    """`rounds` cuts of the same ratio, each chosen by trial."""
    base = yield from first_cuts(problem, options)
    left, reduce = base.size, problem.target.reduce
    for number in range(1, options.rounds + 1):
        if reached(problem, base):
            break
        size = (1.0 - reduce) ** (number / options.rounds) * left ** (1.0 - number / options.rounds)
        aim = reduce if number == options.rounds else 1.0 - size
        plans = yield from _allocations(problem, base, options, aim)
        name, plan, loss = yield from _chosen(base, plans, options)
        why = f"planned by {_SPELT[name]}: loss {loss:.4f} after a short fine-tune, best of {len(plans)} allocations"
        (base,) = yield [replace(plan, tune=tune_of(problem, options), why=why)]
    return (yield from last_training(problem, base, options))


def _allocations(
    problem: Problem, base: Candidate, options: NetAdapt.Options, aim: float
) -> Generator[Sequence[Proposal], Sequence[Candidate], dict[str, Proposal]]:
    """Plans for the reduction `aim`, by what they weigh saliency with; equal ones once."""
    found: dict[str, Proposal] = {}
    if CRITERION in options.weighed_by:
        found[CRITERION] = problem.plan(base, aim)
    cuts = problem.block_cuts(base, options.probe, None)
    if cuts and set(options.weighed_by) - {CRITERION}:
        prices = yield from _prices(base, cuts, options)
        rates = {c.block: prices[c.block] / max(base.size - c.size, 1e-9) for c in cuts}
        for name, values in ((PRICE, prices), (RATE, rates)):
            if name in options.weighed_by:
                found[name] = problem.plan(base, aim, sensitivities(cuts, values, options.strength))
    return _unlike(found) or {CRITERION: problem.plan(base, aim)}


def _prices(base: Candidate, cuts: Sequence[BlockCut], options: NetAdapt.Options) -> Turn:
    """What each block's cut costs in loss, by forward passes alone; one whose trial failed counts as the dearest."""
    measured = {"tune": None, "trial": True, "images": options.images, "calibration": options.calibration}
    whole, *tried = yield [Proposal(kept, base.number, **measured) for kept in ({}, *(c.kept for c in cuts))]  # type: ignore[arg-type]
    (before,) = survivors([whole], "the network before the round")
    survivors(tried, "a round")
    start = before.score.loss if before.score is not None else 0.0
    costs = [None if c.score is None else max(c.score.loss - start, _LEAST) for c in tried]
    dearest = max(c for c in costs if c is not None)
    return {cut.block: dearest if cost is None else cost for cut, cost in zip(cuts, costs, strict=True)}


def sensitivities(cuts: Sequence[BlockCut], values: Mapping[str, float], strength: float) -> dict[str, float]:
    """Factors on saliency, by group: (value over the geometric mean of all) to the power of `strength`."""
    mean = float(np.mean(np.log([values[c.block] for c in cuts])))
    blocks = {c.block for c in cuts}
    # groups that a block takes with it, but that are blocks of their own, have a price of their own
    return {
        group: float(np.exp(strength * (np.log(values[c.block]) - mean)))
        for c in cuts
        for group in c.kept
        if group == c.block or group not in blocks
    }


def _unlike(plans: Mapping[str, Proposal]) -> dict[str, Proposal]:
    """Each allocation once, under its first name."""
    found: dict[str, Proposal] = {}
    seen = set()
    for name, plan in plans.items():
        content = tuple((group, index.tobytes()) for group, index in sorted(plan.kept.items()))
        if content not in seen:
            seen.add(content)
            found[name] = plan
    return found


def _chosen(base: Candidate, plans: Mapping[str, Proposal], options: NetAdapt.Options) -> Choice:
    """The allocation with the lowest loss after a short fine-tune; with halving, half go after a quarter of the batches."""
    first = [max(1, options.batches // _FEW)] if options.halving and len(plans) > 2 else []
    left = list(plans)
    ranked: list[tuple[float, int, str]] = []
    for batches in (*first, options.batches):
        trial = {"tune": "retraining", "trial": True, "images": options.images, "calibration": options.calibration}
        tried = yield [replace(plans[name], batches=batches, **trial) for name in left]  # type: ignore[arg-type]
        survivors(tried, "the allocations")
        ranked = sorted(
            (c.score.loss, c.cost.macs, name) for name, c in zip(left, tried, strict=True) if c.score is not None
        )
        left = [name for _, _, name in ranked[: (len(ranked) + 1) // 2]]
    loss, _, name = ranked[0]
    return name, plans[name], loss
