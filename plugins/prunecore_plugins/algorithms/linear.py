"""The same reduction in every round: s_k = P k / n."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl

if TYPE_CHECKING:
    from prunecore import Target


class Linear:
    """`n` rounds; each is cut, repaired and trained."""

    class Options(BaseModel):
        """n: rounds."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        n: int = Field(default=10, ge=1)

    def __init__(self, options: Options) -> None:
        self._rounds = options.n

    @hookimpl
    def prune_schedule(self, target: Target) -> tuple[float, ...]:
        return (*(target.reduce * k / self._rounds for k in range(1, self._rounds)), target.reduce)
