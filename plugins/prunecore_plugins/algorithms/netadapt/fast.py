"""The same search for a fraction of the images.

Blocks are ranked by recalibration and loss alone (forward passes); ranks of blocks away from the last cut are reused. The
cheapest blocks make sets of about equal savings; sets are tuned, few batches first, and the one with the lowest loss is kept.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecore import Candidate, Problem, Proposal

from .common import Steps, cuts_of, first_cuts, last_training, reached, survivors, tune_of

if TYPE_CHECKING:
    from prunecore.planning import BlockCut

    from . import NetAdapt

_LEAST = 1e-3  # of the loss: a cut that costs less is as good as free, and the larger one is better
_ALIKE = 0.75  # sets that save less than this part of the largest are not compared with it
_FEW = 4  # the part of the batches that comes first, where sets are halved


@dataclass(frozen=True, eq=False)
class CutSet:
    """Blocks that are cut together. saved: part of the measure."""

    cuts: tuple[BlockCut, ...]
    saved: float

    @property
    def blocks(self) -> str:
        return ", ".join(c.block for c in self.cuts)

    def proposal(self, base: Candidate, **more: object) -> Proposal:
        kept = {name: index for c in self.cuts for name, index in c.kept.items()}
        return Proposal(kept, base.number, 1.0 - base.size + self.saved, **more)  # type: ignore[arg-type]


def fast_search(problem: Problem, options: NetAdapt.Options) -> Steps:
    """Rounds until the target is met, or no block can shrink."""
    base = yield from first_cuts(problem, options, warm_start=options.warm_start)
    prices: Mapping[str, float] = {}
    near: frozenset[str] = frozenset()
    number = 0
    while not reached(problem, base):
        cuts = cuts_of(problem, base, options, number)
        if not cuts:
            break
        full = number % options.refresh == 0
        asked = [c for c in cuts if full or c.block in near or c.block not in prices]
        prices = yield from _priced(base, asked, prices, options)
        sets = cut_sets(base, cuts, prices, options, goal=1.0 - problem.target.reduce)
        chosen, loss = yield from _chosen(base, sets, options)
        why = f"{chosen.blocks}: loss {loss:.4f} after a short fine-tune, best of {len(sets)} sets from {len(cuts)} blocks"
        (base,) = yield [chosen.proposal(base, tune=tune_of(problem, options), why=why)]
        near = frozenset(n for c in chosen.cuts for n in (c.block, *c.near))
        number += 1
    return (yield from last_training(problem, base, options))


def _priced(
    base: Candidate, cuts: Sequence[BlockCut], old: Mapping[str, float], options: NetAdapt.Options
) -> Generator[Sequence[Proposal], Sequence[Candidate], dict[str, float]]:
    """What each block costs in loss, newly measured for `cuts`, as it was for the others."""
    measured = {"tune": None, "trial": True, "images": options.images, "calibration": options.calibration}
    proposals = [Proposal({}, base.number, **measured), *(Proposal(c.kept, base.number, **measured) for c in cuts)]  # type: ignore[arg-type]
    whole, *tried = yield proposals
    (before,) = survivors([whole], "the network before the round")
    survivors(tried or [whole], "a round")
    start = before.score.loss if before.score is not None else 0.0
    # a failed trial's block is left out until it is ranked again
    new = {
        cut.block: float("inf") if found.score is None else found.score.loss - start
        for cut, found in zip(cuts, tried, strict=True)
    }
    return {**old, **new}


def cut_sets(
    base: Candidate, cuts: Sequence[BlockCut], prices: Mapping[str, float], options: NetAdapt.Options, *, goal: float
) -> list[CutSet]:
    """At most `finalists` sets, the cheapest first. Blocks of a set share no tensor, so that their savings add up.

    Price per saving decides, where a price counts as at least a thousandth: else the smaller of two free cuts would win.
    """
    by_rate = sorted(cuts, key=lambda c: (max(prices[c.block], _LEAST) / max(base.size - c.size, 1e-9), c.size))
    room = min(options.budget, base.size - goal) + 1e-9
    found: list[CutSet] = []
    for leader in range(min(options.finalists, len(by_rate))):
        # each further set leaves out the leaders of those before it
        made = _greedy(base, by_rate[leader:], prices, options.joint, room)
        if made is not None and all(made.blocks != other.blocks for other in found):
            found.append(made)
    most = max((s.saved for s in found), default=0.0)
    return [s for s in found if s.saved >= _ALIKE * most]  # of unlike sets the smallest would have the lowest loss


def _greedy(
    base: Candidate, cuts: Sequence[BlockCut], prices: Mapping[str, float], most: int, room: float
) -> CutSet | None:
    taken: list[BlockCut] = []
    saved = 0.0
    for cut in cuts:
        saves = base.size - cut.size
        apart = all(cut.block not in other.near for other in taken)
        if prices[cut.block] == float("inf") or (taken and (saved + saves > room or not apart)):
            continue
        taken.append(cut)
        saved += saves
        if len(taken) == most or saved >= room:
            break
    return CutSet(tuple(taken), saved) if taken else None


def _chosen(
    base: Candidate, sets: Sequence[CutSet], options: NetAdapt.Options
) -> Generator[Sequence[Proposal], Sequence[Candidate], tuple[CutSet, float]]:
    """The set with the lowest loss after a short fine-tune; with halving, half of them go after a quarter of the batches."""
    stages = (
        [max(1, options.batches // _FEW), options.batches] if options.halving and len(sets) > 1 else [options.batches]
    )
    left = list(sets)
    best = 0.0
    for number, batches in enumerate(stages):
        tried = yield [
            s.proposal(
                base,
                tune="retraining",
                trial=True,
                batches=batches,
                images=options.images,
                calibration=options.calibration,
            )
            for s in left
        ]
        ranked = sorted(
            ((c.score.loss, c.cost.macs, place) for place, c in enumerate(tried) if c.score is not None),
        )
        survivors(tried, "the best sets")
        best = ranked[0][0]
        count = 1 if number == len(stages) - 1 else (len(ranked) + 1) // 2
        left = [left[place] for _, _, place in ranked[:count]]
    return left[0], best
