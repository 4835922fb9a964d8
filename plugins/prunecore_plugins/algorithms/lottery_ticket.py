"""Lottery tickets, in whole channels: train, cut, take the survivors back to the weights of the start, train again.

Frankle and Carbin, arXiv 1803.03635; an early checkpoint instead of the start: arXiv 1903.01611.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl
from prunecore.loading import load_weights
from prunecore.surgery import copy_model

if TYPE_CHECKING:
    from torch import nn

    from prunecore import Target


class LotteryTicket:
    """`n` rounds that each keep the same fraction: s_k = 1 - (1 - P)^(k/n)."""

    class Options(BaseModel):
        """n: rounds. rewind_to: a state dict of the unpruned network, such as an early checkpoint of its training; by default
        the weights that the run started from.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        n: int = Field(default=10, ge=1)
        rewind_to: Path | None = None

    def __init__(self, options: Options) -> None:
        self._rounds = options.n
        self._weights = options.rewind_to

    @hookimpl
    def prune_schedule(self, target: Target) -> tuple[float, ...]:
        left = 1 - target.reduce
        return (*(1 - left ** (k / self._rounds) for k in range(1, self._rounds)), target.reduce)

    @hookimpl
    def prune_rewind(self, start: nn.Module) -> nn.Module:
        if self._weights is None:
            return start
        early = copy_model(start)
        load_weights(early, self._weights)
        return early
