"""The core's own implementations of hooks, registered like plugins and asked last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecore.execution import ExecutionSettings, Executor, local_executor
from prunecore.execution.ledger import silent
from prunecore.hookspecs import hookimpl
from prunecore.surgery import resize
from prunecore.training import Teacher, fine_tune
from prunecore.types import Phase, Proposal, Recipe, Task

if TYPE_CHECKING:
    from torch import nn

    from prunecore.config.schema import RunConfig
    from prunecore.config.training import DistillationSettings, TrainingSettings
    from prunecore.run.stages import Stages
    from prunecore.types import DependencyGraph


class DefaultSurgery:
    """Cut by slicing."""

    @hookimpl(trylast=True)
    def prune_resize(self, model: nn.Module, graph: DependencyGraph, proposal: Proposal) -> tuple[nn.Module, Recipe]:
        return resize(model, graph, proposal)


class DefaultExecutor:
    """Workers on this machine, or this process where none are named."""

    def __init__(self, settings: ExecutionSettings, *, device: str) -> None:
        self._settings = settings
        self._device = device

    @hookimpl(trylast=True)
    def prune_executor(self) -> Executor:
        return local_executor(self._settings, device=self._device)


class StoppedTrainings:
    """Keeps the reason of a training that stopped early: its stage keeps the last good weights, and so does a run that goes on."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "training_stopped":
            name = f"stopped-{event['phase']}-{event['seed']}"
            self._stages.aside(name, {"phase": event["phase"], "reason": event["reason"]})

    @staticmethod
    def notes(stages: Stages) -> tuple[str, ...]:
        """One for every reason that was kept."""
        found = [r["data"] for r in stages.journal.records if r["name"].startswith("stopped-")]
        return tuple(dict.fromkeys(f"{told['phase']} stopped early: {told['reason']}" for told in found))


def phases_of(config: RunConfig) -> dict[Phase, TrainingSettings]:
    """How each phase is trained."""
    return {
        "training": config.training,
        "retraining": config.retraining,
        "pretraining": config.pretraining or config.training,
    }


class DefaultTraining:
    """Fine-tune by the loop of `prunecore.training`.

    scratch(name): where an interrupted training leaves its last epoch. emit: told of epochs.
    """

    def __init__(
        self,
        settings: Mapping[Phase, TrainingSettings],
        *,
        device: str,
        distillation: DistillationSettings | None,
        scratch: Callable[[str], Path] | None = None,
        emit: Callable[[Mapping[str, Any]], None] = silent,
    ) -> None:
        self._settings = settings
        self._device = device
        self._distillation = distillation
        self._scratch = scratch
        self._emit = emit

    @hookimpl(trylast=True)
    def prune_fine_tune(
        self, model: nn.Module, phase: Phase, task: Task, teacher: nn.Module | None, recipe: Recipe, seed: int
    ) -> nn.Module:
        taught = None
        if teacher is not None and self._distillation is not None:
            taught = Teacher(teacher, self._distillation, recipe)
        return fine_tune(
            model,
            task,
            self._settings[phase],
            device=self._device,
            seed=seed,
            teacher=taught,
            checkpoint=None if self._scratch is None else self._scratch(f"{phase}-{seed}"),
            on_event=lambda event: self._emit({**event, "phase": phase, "seed": seed}),
        )
