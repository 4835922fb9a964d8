"""NetAdapt (Yang et al., arXiv 1804.03230): one block after the other is shrunk where that costs least, by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl

if TYPE_CHECKING:
    from prunecore import Problem, Target
    from prunecore.run.search import Search

_OF_EXACT: Final = frozenset({"delta_crop", "step", "decay", "top_n"})
_OF_FAST: Final = frozenset(
    {"rounds", "probe", "images", "calibration", "weighed_by", "strength", "batches", "halving"}
)


class NetAdapt:
    """Two modes. `exact: true` is the paper's loop: every round, every block that can shrink is tried with a short fine-tune, and
    the most accurate wins. The default is fast: one forward-only trial a block says what it costs, the planner makes whole
    allocations from that, and only these are tuned.
    """

    class Options(BaseModel):
        """long_term: `training` comes after each accepted cut, or once at the end, with `retraining` after the others.

        Of the exact mode: delta_crop: part of a block that a proposal removes. step: in its place, part of the measure that every
        proposal of a round removes, as in the paper, `decay` times as much in each round as in the one before. top_n: after a full
        round only the n best blocks are tried, until they do worse than the next.

        Of the fast mode: rounds: cuts, of equal ratio. probe: part of a block that goes in the trial that prices it. images: of the
        search split that price and choose, always the same. calibration: images that recalibrate a trial. weighed_by: allocations
        that are tried: by the criterion alone, and by saliencies that are weighed by what a block costs, or costs per saving.
        strength: the power of these weights. batches: of the short fine-tune; halving: a quarter of them first, for all, then all
        of them for the better half.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        exact: bool = False
        delta_crop: float = Field(default=0.1, gt=0, lt=1)
        long_term: Literal["each", "end"] = "each"
        step: float | None = Field(default=None, gt=0, lt=1)
        decay: float = Field(default=0.96, gt=0, le=1)
        top_n: int | None = Field(default=None, ge=1)
        rounds: int = Field(default=1, ge=1)
        probe: float = Field(default=0.25, gt=0, lt=1)
        images: int = Field(default=512, ge=16)
        calibration: int = Field(default=256, ge=2)
        weighed_by: tuple[Literal["criterion", "price", "rate"], ...] = Field(
            default=("criterion", "price", "rate"), min_length=1
        )
        strength: float = Field(default=0.5, gt=0)
        batches: int = Field(default=20, ge=1)
        halving: bool = True

        def unused(self) -> str | None:
            """Which of the options that were given this mode does not have, and which mode has them."""
            mode, foreign, other = ("exact", _OF_FAST, "false") if self.exact else ("fast", _OF_EXACT, "true")
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
