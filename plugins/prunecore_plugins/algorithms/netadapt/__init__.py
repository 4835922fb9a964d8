"""NetAdapt (Yang et al., arXiv 1804.03230): one block after the other is shrunk where that costs least, by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl

if TYPE_CHECKING:
    from prunecore import Problem, Target
    from prunecore.run.search import Search


class NetAdapt:
    """Two modes. `exact: true` is the paper's loop: every round, every block that can shrink is tried with a short fine-tune, and
    the most accurate wins. The default is fast: all blocks are ranked by recalibration and loss alone, and only the best few
    sets of blocks are tuned.
    """

    class Options(BaseModel):
        """delta_crop: part of a block that a proposal removes. step: in its place, part of the measure that every proposal of a
        round removes, as in the paper, `decay` times as much in each round as in the one before. top_n (exact): after a full
        round only the n best blocks are tried, until they do worse than the next. images: of the search split that rank and
        choose, always the same (exact: all). long_term: `training` comes after each accepted cut, or once at the end, with
        `retraining` after the others (default: each where exact, else end).

        Levers of the fast mode: warm_start: part of the reduction that one planned cut makes first. joint: blocks that may be cut
        in one round, where they verify together (1: one). budget: part of the measure that a round removes, at most.
        finalists: sets of blocks that are tuned; halving: with few batches first. refresh: rounds after which all blocks are ranked
        anew; in between those near the last cut (1: always all). calibration: images that recalibrate a ranked proposal.
        batches: of a finalist's fine-tune.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        exact: bool = False
        delta_crop: float = Field(default=0.1, gt=0, lt=1)
        step: float | None = Field(default=None, gt=0, lt=1)
        decay: float = Field(default=0.96, gt=0, le=1)
        long_term: Literal["each", "end"] | None = None
        top_n: int | None = Field(default=None, ge=1)
        images: int = Field(default=512, ge=16)
        warm_start: float = Field(default=0.5, ge=0, le=1)
        joint: int = Field(default=4, ge=1)
        budget: float = Field(default=0.05, gt=0, le=1)
        finalists: int = Field(default=3, ge=1)
        halving: bool = True
        refresh: int = Field(default=4, ge=1)
        calibration: int = Field(default=256, ge=2)
        batches: int = Field(default=20, ge=1)

        @property
        def each(self) -> bool:
            """Whether `training` comes after each accepted cut."""
            return self.long_term == "each" or (self.long_term is None and self.exact)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_schedule(self, target: Target) -> tuple[float, ...]:
        return (target.reduce,)

    @hookimpl
    def prune_search(self, problem: Problem) -> Search:
        from .exact import exact_search
        from .fast import fast_search

        return exact_search(problem, self._options) if self._options.exact else fast_search(problem, self._options)
