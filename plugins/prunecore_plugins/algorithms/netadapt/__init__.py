"""NetAdapt (Yang et al., arXiv 1804.03230): one block after the other is shrunk where that costs least, by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl

if TYPE_CHECKING:
    from prunecore import Problem, Target
    from prunecore.run.search import Search

_OF_EXACT: Final = frozenset({"delta_crop", "decay", "top_n"})
_OF_FAST: Final = frozenset({"blocks", "balance", "refresh", "images", "calibration"})


class NetAdapt:
    """Two modes. `exact: true` is the paper's loop: every round, every block that can shrink is tried with a short fine-tune, and
    the most accurate wins. The default is fast: blocks are tried by forward passes alone, those that cost least are cut together, and
    what the others cost is remembered.
    """

    class Options(BaseModel):
        """long_term: `training` comes after each accepted cut, or once at the end, with `retraining` after the others; where not
        given, `each` in the exact mode and `end` in the fast one. step: part of the measure that a round removes.

        Of the exact mode: delta_crop: part of a block that a proposal removes, where no step is given; every proposal of a round
        removes a step, as in the paper, `decay` times as much in each round as in the one before. top_n: after a full
        round only the n best blocks are tried, until they do worse than the next.

        Of the fast mode, where the step is 0.06 unless given: blocks: the most that are cut together, each by an equal share of
        the step. balance: how dear narrow blocks get: what a cut costs counts (gone : left of the block) to this power. refresh: every
        so many rounds all blocks are tried, in the others those that would be cut by what they cost when last tried.
        images: of the search split that measure the loss of trials and of what is cut, always the same. calibration: images that
        recalibrate a trial.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        exact: bool = False
        delta_crop: float = Field(default=0.1, gt=0, lt=1)
        long_term: Literal["each", "end"] | None = None
        step: float | None = Field(default=None, gt=0, lt=1)
        decay: float = Field(default=0.96, gt=0, le=1)
        top_n: int | None = Field(default=None, ge=1)
        blocks: int = Field(default=4, ge=1)
        balance: float = Field(default=0.5, ge=0)
        refresh: int = Field(default=8, ge=1)
        images: int = Field(default=512, ge=16)
        calibration: int = Field(default=128, ge=2)

        def unused(self) -> str | None:
            """Which of the options that were given this mode does not have, and which mode has them."""
            mode, foreign, other = ("exact", _OF_FAST, "false") if self.exact else ("fast", _OF_EXACT, "true")
            if self.exact and self.step is None and "decay" in self.model_fields_set:
                return "decay: of the step of a round, and none is given; `--set netadapt.step=0.05` gives one"
            given = [name for name in type(self).model_fields if name in foreign & self.model_fields_set]
            if not given:
                return None
            return (
                f"{', '.join(given)}: not used in {mode} mode; `--set netadapt.exact={other}` is the mode that has them"
            )

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
