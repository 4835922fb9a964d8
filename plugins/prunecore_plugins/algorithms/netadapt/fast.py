"""The same for a fraction of the images: blocks are priced by forward passes alone, the cheapest are cut together, and prices of the
others are remembered.

What that loses against accuracy after a fine-tune, and what each option gives, is measured: docs/measurements.md#netadapt.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from prunecore import Candidate, Problem, Proposal, TrainingError

from .common import Steps, first_cuts, last_training, reached, survivors, tune_of

if TYPE_CHECKING:
    from prunecore.planning import BlockCut

    from . import NetAdapt

STEP: Final = 0.06  # of the measure, a round
_PARTS: Final = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of a block's share of the step: the first that the block can give
_LEAST: Final = 1e-3  # of the loss: a cut that costs less is as good as free


@dataclass(frozen=True, eq=False)
class Priced:
    """A cut, the loss that it adds before training, and what that counts as: `plain`, times the odds of the block."""

    cut: BlockCut
    loss: float
    plain: float
    odds: float

    @property
    def price(self) -> float:
        return self.plain * self.odds


@dataclass(frozen=True, eq=False)
class Room:
    """What a round may cut. left: of the measure, until the target. share: of the step, for each block."""

    base: Candidate
    left: float
    share: float
    options: NetAdapt.Options


def fast_search(problem: Problem, options: NetAdapt.Options) -> Steps:
    """Rounds until what is left to remove is a block's share of a step; the planner removes that."""
    base = yield from first_cuts(problem, options)
    share = (options.step or STEP) / options.blocks
    known: Mapping[str, float] = {}
    planned, number = False, 0
    while not (planned or reached(problem, base)):
        left = base.size - 1.0 + problem.target.reduce
        cuts = _cuts(problem, base, share) if left > share else []
        if cuts:
            known = {} if number % options.refresh == 0 else known
            room = Room(base, left, share, options)
            priced = yield from _priced(room, cuts, known)
            chosen = _together(room, [one.cut for one in priced])
            known = {**known, **{one.cut.block: one.plain for one in priced}}
            proposal = _joined(base, [one for one in priced if one.cut in chosen])
            number += 1
        else:  # once: what a failed certificate keeps from going does not go the next time either
            planned = True
            proposal = replace(problem.plan(base, problem.target.reduce), why="the rest, planned by the criterion")
        (base,) = yield [replace(proposal, tune=tune_of(problem, options), images=options.images)]
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
    it: Room, cuts: Sequence[BlockCut], known: Mapping[str, float]
) -> Generator[Sequence[Proposal], Sequence[Candidate], list[Priced]]:
    """Cuts by their price, the cheapest first; without those whose trials failed, and those that were not worth one.

    known: what blocks cost in an earlier round; those that it does not hold come first. As blocks and network get thinner that gets
    more, so the others are tried in the order of it, until none that is left could cost less than what would be chosen: the lazy
    evaluation of Minoux's accelerated greedy algorithm (1978).
    """
    images = {"images": it.options.images, "calibration": it.options.calibration}
    trial: dict[str, Any] = {"tune": None, "trial": True, **images}
    bounds = {c.block: known[c.block] * _odds(it, c) for c in cuts if c.block in known}
    batch = _worth_a_trial(it, cuts, bounds, [], [])
    whole, *answers = yield [Proposal(kept, it.base.number, **trial) for kept in ({}, *(c.kept for c in batch))]
    tried = list(zip(batch, answers, strict=True))
    while batch := _worth_a_trial(it, cuts, bounds, tried, _prices(it, whole, tried)):
        more = yield [Proposal(c.kept, it.base.number, **trial) for c in batch]
        tried += zip(batch, more, strict=True)
    survivors([candidate for _, candidate in tried], "a round")
    if priced := _prices(it, whole, tried):
        return priced
    raise TrainingError("netadapt: no trial of a round has a finite loss: check the weights, or lower retraining.lr")


def _worth_a_trial(
    it: Room,
    cuts: Sequence[BlockCut],
    bounds: Mapping[str, float],
    tried: Sequence[tuple[BlockCut, Candidate]],
    priced: Sequence[Priced],
) -> list[BlockCut]:
    """What is to be tried next: all of whose price nothing is known; then what would be chosen, were the others as cheap as they can be."""
    done = {cut.block for cut, _ in tried}
    waiting = [c for c in cuts if c.block not in done]
    if unknown := [c for c in waiting if c.block not in bounds]:
        return unknown
    prices = {**bounds, **{one.cut.block: one.price for one in priced}}
    in_order = sorted([*(one.cut for one in priced), *waiting], key=lambda c: prices[c.block])
    return [c for c in _together(it, in_order) if c.block not in done]


def _prices(it: Room, whole: Candidate, tried: Sequence[tuple[BlockCut, Candidate]]) -> list[Priced]:
    """The cheapest first; without cuts whose trial has no loss.

    Price: the loss that a cut adds, as if it saved a whole share, times the odds of the block.
    Added to the network before, recalibrated by the same images; to the best trial, where that is better still: a price is positive.
    """
    losses = [(cut, loss) for cut, candidate in tried if (loss := _loss_of(candidate)) is not None]
    before = _loss_of(whole)  # where that trial failed, the others still compare
    lowest = min([*([] if before is None else [before]), *(loss for _, loss in losses)], default=0.0)
    found = []
    for cut, loss in losses:
        plain = max(loss - lowest, _LEAST) * max(1.0, it.share / (it.base.size - cut.size))
        found.append(Priced(cut, loss - (lowest if before is None else before), plain, _odds(it, cut)))
    return sorted(found, key=lambda p: p.price)


def _odds(it: Room, cut: BlockCut) -> float:
    """What is gone of a block : what is left, to the power `balance`."""
    loaded = {w.group: w.before for w in it.base.recipe.widths}
    return float(((loaded.get(cut.block, cut.before) - cut.after) / cut.after) ** it.options.balance)


def _loss_of(candidate: Candidate) -> float | None:
    """None where the trial failed, or its loss is not a number that could be compared."""
    loss = None if candidate.score is None else candidate.score.loss
    return loss if loss is not None and math.isfinite(loss) else None


def _together(it: Room, cuts: Sequence[BlockCut]) -> list[BlockCut]:
    """The first of these cuts that have no group in common and, by the sum of what they save, do not pass the target."""
    chosen: list[BlockCut] = []
    groups: set[str] = set()
    left = it.left
    for cut in cuts:
        saved = it.base.size - cut.size
        if len(chosen) < it.options.blocks and saved <= left and not groups & cut.kept.keys():
            chosen.append(cut)
            groups |= cut.kept.keys()
            left -= saved
    return chosen


def _joined(base: Candidate, chosen: Sequence[Priced]) -> Proposal:
    kept = {group: index for one in chosen for group, index in one.cut.kept.items()}
    saved = sum(base.size - one.cut.size for one in chosen)
    told = ", ".join(f"{one.cut.block} ({one.loss:+.4f})" for one in chosen)
    return Proposal(kept, base.number, 1.0 - base.size + saved, why=f"the cheapest by the loss that each adds: {told}")
