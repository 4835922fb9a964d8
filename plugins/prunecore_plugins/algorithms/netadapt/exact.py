"""The paper's loop: every block that can shrink is tried with a short fine-tune; the most accurate one is kept."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from prunecore import Candidate, Problem, Proposal

from .common import Steps, better, cuts_of, first_cuts, last_training, reached, survivors, tune_of

if TYPE_CHECKING:
    from prunecore.planning import BlockCut

    from . import NetAdapt


def exact_search(problem: Problem, options: NetAdapt.Options) -> Steps:
    """Rounds until the target is met, or no block can shrink."""
    base = yield from first_cuts(problem, options)
    best: tuple[str, ...] = ()  # the blocks that are tried, where not all are
    next_best = float("-inf")  # accuracy of the block after those in the last full round
    number = 0
    while not reached(problem, base):
        cuts = cuts_of(problem, base, options, number)
        if not cuts:
            break
        some = tuple(c for c in cuts if c.block in best)
        tried, found = yield from _round(base, some or cuts, may_fail=bool(some))
        if some and (not found or -better(found[0])[0] < next_best):  # they do worse than the next: a full round
            tried, found = yield from _round(base, cuts)
            some = ()
        if options.top_n is not None and not some:
            best = tuple(tried[c.number].block for c in found[: options.top_n])
            after = found[options.top_n] if len(found) > options.top_n else None
            next_best = after.score.value if after is not None and after.score is not None else float("-inf")
        winner = tried[found[0].number]
        why = f"{winner.block}: accuracy {-better(found[0])[0]:.4f} after a short fine-tune, best of {len(found)}"
        (base,) = yield [Proposal(winner.kept, base.number, 1.0 - winner.size, tune=tune_of(problem, options), why=why)]
        number += 1
    return (yield from last_training(problem, base, options))


def _round(
    base: Candidate, cuts: tuple[BlockCut, ...], *, may_fail: bool = False
) -> Generator[Sequence[Proposal], Sequence[Candidate], tuple[dict[int, BlockCut], list[Candidate]]]:
    """Every cut tried; by number, and the candidates that have a score, best first: at least one, unless all `may_fail`."""
    candidates = yield [Proposal(c.kept, base.number, tune="retraining", trial=True) for c in cuts]
    numbered = {c.number: cut for c, cut in zip(candidates, cuts, strict=True)}
    scored = [c for c in candidates if c.score is not None] if may_fail else survivors(candidates, "a round")
    return numbered, sorted(scored, key=better)
