"""What both modes share: the first cuts, the end, and the order of candidates."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from prunecore import Candidate, Problem, Proposal, TrainingError

if TYPE_CHECKING:
    from prunecore.planning import BlockCut

    from . import NetAdapt

Steps = Generator[Sequence[Proposal], Sequence[Candidate], Candidate]
TOLERANCE = 0.005  # of the size, as everywhere


def first_cuts(problem: Problem, options: NetAdapt.Options) -> Steps:
    """All widths aligned, where that is asked for."""
    base = problem.start
    if problem.target.align_all:
        aligned = problem.plan(base, 0.0)
        notes = () if problem.target.reduce else aligned.notes  # what they say of the size is of a target of 0
        if aligned.kept or notes:
            (base,) = yield [replace(aligned, tune=tune_of(problem, options), notes=notes)]
    return base


def last_training(problem: Problem, base: Candidate, options: NetAdapt.Options) -> Steps:
    """The long-term fine-tune, unless the last cut had it."""
    if base.number == problem.start.number or tune_of(problem, options) != "training":
        (base,) = yield [Proposal({}, base.number, 1.0 - base.size, why="long-term fine-tune")]
    return base


def tune_of(problem: Problem, options: NetAdapt.Options) -> Literal["training", "retraining"]:
    """What follows an accepted cut; where all that is asked for is aligned widths, that cut is the last."""
    when = options.long_term or ("each" if options.exact else "end")
    return "training" if when == "each" or not problem.target.reduce else "retraining"


def cuts_of(problem: Problem, base: Candidate, options: NetAdapt.Options, number: int) -> tuple[BlockCut, ...]:
    """What may be tried in round `number`, from 0: a cut a block."""
    saving = None
    if options.step is not None:
        saving = min(options.step * options.decay**number, base.size - 1.0 + problem.target.reduce)
    cuts = problem.block_cuts(base, options.delta_crop, saving)
    if not cuts and saving is not None:  # no block alone can give so much
        cuts = problem.block_cuts(base, options.delta_crop, None)
    return closing(problem, cuts)


def reached(problem: Problem, candidate: Candidate) -> bool:
    """Whether the target is met; with `multiple_of` the size may not be above it."""
    room = 0.0 if problem.target.multiple_of else TOLERANCE
    return candidate.size <= 1.0 - problem.target.reduce + room


def closing(problem: Problem, cuts: Sequence[BlockCut]) -> tuple[BlockCut, ...]:
    """The cuts that do not pass the target by more than may be; where all do, those that pass it least."""
    goal = 1.0 - problem.target.reduce
    close = tuple(c for c in cuts if c.size >= goal - TOLERANCE)
    nearest = max((c.size for c in cuts), default=goal)
    return close or tuple(c for c in cuts if c.size >= nearest - TOLERANCE)


def better(candidate: Candidate) -> tuple[float, float, int]:
    """Sort key, best first: accuracy, then loss, then MACs saved."""
    if candidate.score is None:
        raise TrainingError(f"candidate {candidate.number} failed: {'; '.join(candidate.notes)}")
    return (-candidate.score.value, candidate.score.loss, candidate.cost.macs)


def survivors(candidates: Sequence[Candidate], what: str) -> list[Candidate]:
    """Those with a score. TrainingError where none has one."""
    found = [c for c in candidates if c.score is not None]
    if not found:
        first = next(iter(candidates[0].notes), "no reason given") if candidates else "nothing was tried"
        raise TrainingError(f"netadapt: every trial of {what} failed, the first: {first}")
    return found
