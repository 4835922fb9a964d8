"""The same for a fraction of the images: blocks are priced by forward passes alone, and the cheapest are cut together.

What that loses against accuracy after a fine-tune, and what each option gives, is measured: docs/measurements.md#netadapt.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from prunecore import Candidate, ConfigError, Problem, Proposal

from .common import Steps, first_cuts, last_training, reached, survivors, tune_of

if TYPE_CHECKING:
    from prunecore.planning import BlockCut

    from . import NetAdapt

STEP: Final = 0.06  # of the measure, a round
_PARTS: Final = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of a block's share of the step: the first that the block can give
_LEAST: Final = 1e-3  # of the loss: a cut that costs less is as good as free


@dataclass(frozen=True, eq=False)
class Priced:
    """A cut, the loss that it adds before training, and what it counts as."""

    cut: BlockCut
    loss: float
    price: float


def fast_search(problem: Problem, options: NetAdapt.Options) -> Steps:
    """Rounds until what is left to remove is a block's share of a step; the planner removes that."""
    base = yield from first_cuts(problem, options)
    share = (options.step or STEP) / options.blocks
    planned = False
    while not (planned or reached(problem, base)):
        left = base.size - 1.0 + problem.target.reduce
        cuts = _cuts(problem, base, share) if left > share else []
        if cuts:
            priced = yield from _priced(base, cuts, share, options)
            proposal = _joined(base, _together(base, priced, left, options.blocks))
        else:  # once: what a failed certificate keeps from going does not go the next time either
            planned = True
            proposal = replace(problem.plan(base, problem.target.reduce), why="the rest, planned by the criterion")
        (base,) = yield [replace(proposal, tune=tune_of(problem, options))]
    return (yield from last_training(problem, base, options))


def _cuts(problem: Problem, base: Candidate, share: float) -> list[BlockCut]:
    """A cut a block that saves its share, or a smaller part where it cannot give that; none that passes the target."""
    found: dict[str, BlockCut] = {}
    goal = 1.0 - problem.target.reduce
    for part in _PARTS:
        for cut in problem.block_cuts(base, 0.0, share * part):
            if cut.size >= goal:
                found.setdefault(cut.block, cut)
    return list(found.values())


def _priced(
    base: Candidate, cuts: Sequence[BlockCut], share: float, options: NetAdapt.Options
) -> Generator[Sequence[Proposal], Sequence[Candidate], list[Priced]]:
    """Every cut by its price, the cheapest first; without those whose trials failed.

    Price: the loss that the cut adds, as if it saved a whole share, times the odds of the block, gone : left, to the power `balance`.
    Added to the network before, recalibrated by the same images; to the best trial, where that is better still: a price is positive.
    """
    trial: dict[str, Any] = {"tune": None, "trial": True, "images": options.images, "calibration": options.calibration}
    whole, *tried = yield [Proposal(kept, base.number, **trial) for kept in ({}, *(c.kept for c in cuts))]
    survivors(tried, "a round")
    losses = [loss for c in (whole, *tried) if (loss := _loss_of(c)) is not None]
    if not losses:
        raise ConfigError("netadapt: no trial of a round has a finite loss: check the weights, or lower retraining.lr")
    start, lowest = losses[0], min(losses)  # where the trial of the whole network failed, the others still compare
    loaded = {w.group: w.before for w in base.recipe.widths}
    found = []
    for cut, candidate in zip(cuts, tried, strict=True):
        loss = _loss_of(candidate)
        if loss is None:
            continue
        dearer = max(loss - lowest, _LEAST)
        gone = loaded.get(cut.block, cut.before) - cut.after
        price = dearer * max(1.0, share / (base.size - cut.size)) * (gone / cut.after) ** options.balance
        found.append(Priced(cut, loss - start, price))
    return sorted(found, key=lambda p: p.price)


def _loss_of(candidate: Candidate) -> float | None:
    """None where the trial failed, or its loss is not a number that could be compared."""
    loss = None if candidate.score is None else candidate.score.loss
    return loss if loss is not None and math.isfinite(loss) else None


def _together(base: Candidate, priced: Sequence[Priced], left: float, most: int) -> list[Priced]:
    """The cheapest cuts that have no group in common and, by the sum of what they save, do not pass the target."""
    chosen: list[Priced] = []
    groups: set[str] = set()
    for one in priced:
        saved = base.size - one.cut.size
        if len(chosen) < most and saved <= left and not groups & one.cut.kept.keys():
            chosen.append(one)
            groups |= one.cut.kept.keys()
            left -= saved
    return chosen


def _joined(base: Candidate, chosen: Sequence[Priced]) -> Proposal:
    kept = {group: index for one in chosen for group, index in one.cut.kept.items()}
    saved = sum(base.size - one.cut.size for one in chosen)
    told = ", ".join(f"{one.cut.block} ({one.loss:+.4f})" for one in chosen)
    return Proposal(kept, base.number, 1.0 - base.size + saved, why=f"the cheapest by the loss that each adds: {told}")
