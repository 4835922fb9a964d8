"""What is settled before the first stage of a run, and goes through all of them unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunecore.config.reader import Parsed
    from prunecore.config.schema import RunConfig
    from prunecore.run.processes import World
    from prunecore.run.rounds import Bench
    from prunecore.run.stages import Stages
    from prunecore.types import LoadedModel, Target, Task

Emit = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Run:
    """What is settled before the first stage. task.train is the part that trains; `search_data` chooses; validation reports."""

    parsed: Parsed
    hook: Any
    loaded: LoadedModel
    task: Task
    search_data: Any
    bench: Bench
    stages: Stages
    emit: Emit
    world: World

    @property
    def config(self) -> RunConfig:
        return self.parsed.config

    @property
    def target(self) -> Target:
        return self.bench.target
