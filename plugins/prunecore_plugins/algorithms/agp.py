"""Automated gradual pruning: much at first, less and less towards the target (Zhu and Gupta, arXiv 1710.01878)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from prunecore import ConfigError, hookimpl

if TYPE_CHECKING:
    from prunecore import Target


class AGP:
    """After round `i_0`, every `frequency` rounds, `n` times: s_k = P + (s_0 - P) (1 - k/n)^3, k = 0 … n."""

    class Options(BaseModel):
        """n: cuts. s_0: reduction that the first cut makes at once (0: there is none before the first step). i_0: rounds of
        training before the first cut. frequency: rounds from one cut to the next; those between only train.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        n: int = Field(default=10, ge=1)
        s_0: float = Field(default=0.0, ge=0, lt=1)
        i_0: int = Field(default=0, ge=0)
        frequency: int = Field(default=1, ge=1)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_schedule(self, target: Target) -> tuple[float, ...]:
        options, final = self._options, target.reduce
        if options.s_0 > final:
            raise ConfigError(f"agp.s_0: {options.s_0} is above the target {final}; give a smaller one")
        steps = [final + (options.s_0 - final) * (1 - k / options.n) ** 3 for k in range(options.n)] + [final]
        cuts = steps if options.s_0 else steps[1:]
        training_only = [0.0] * options.i_0
        # a cut, then rounds that keep its reduction, up to the last cut
        return (*training_only, *(s for s in cuts[:-1] for _ in range(options.frequency)), cuts[-1])
