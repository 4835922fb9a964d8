"""Trials: proposals cut, repaired, tuned as asked, measured on the search split and thrown away, by workers in parallel.

A worker has the network as loaded, the task and the plugins; a job brings the candidate that is cut, and what to do with it.
Trials carry no certificate: what a search goes on from is cut again as a step, with one.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prunecore.config.reader import Parsed
from prunecore.errors import ModelError, OutOfMemory, PrunecoreError, StalledError, TrainingError
from prunecore.registry import build_manager
from prunecore.run.defaults import DefaultSurgery, DefaultTraining, phases_of
from prunecore.run.loading import load_model, load_task, measured_on
from prunecore.surgery import apply_recipe, compose
from prunecore.training import derive_seed, evaluate, recalibrate
from prunecore.training.forward import images_in
from prunecore.types import Phase, Proposal, Recipe, Score

if TYPE_CHECKING:
    import pluggy
    from torch import Tensor, nn

    from prunecore.config.schema import RunConfig
    from prunecore.types import DependencyGraph, LoadedModel, Task


@dataclass(frozen=True, eq=False)
class TrialState:
    """What every worker has, the same for all jobs."""

    config: RunConfig
    manager: pluggy.PluginManager
    loaded: LoadedModel
    task: Task
    search_data: Any
    device: str


@dataclass(frozen=True, eq=False)
class TrialJob:
    """What is tried. recipe, weights: of the candidate that is cut, relative to the network as loaded.

    teacher: weights of the network that the run began to cut; None where nobody learns from it.
    """

    proposal: Proposal
    recipe: Recipe
    weights: Mapping[str, Tensor]
    graph: DependencyGraph
    teacher: Mapping[str, Tensor] | None


@dataclass(frozen=True)
class TrialResult:
    """score: on the search split. forward, backward: images that went through the network. halved: memory was short once."""

    score: Score
    forward: int
    backward: int
    seconds: float
    halved: bool = False


def seed_of(seed: int, proposal: Proposal) -> int:
    """The same for all trials that are cut from one candidate, so that chance is the same for those that are compared: they are
    recalibrated and tuned by the same images."""
    return derive_seed(seed, "trial", proposal.base)


def build_state(device: str, parsed: Parsed) -> TrialState:
    """What a worker builds once."""
    roles = {"loader", "task", "graph", "algorithm", "extension"}
    choices = [choice for choice in parsed.choices if choice.role in roles]
    manager = build_manager(choices, defaults=(DefaultSurgery(),))
    config = parsed.config
    loaded = load_model(manager.hook, config.model.kind, seed=config.seed)
    task, search_data = load_task(manager.hook, fraction=config.search_fraction, seed=config.seed)
    return TrialState(config, manager, loaded, task, search_data, device)


def try_proposal(state: TrialState, job: TrialJob) -> TrialResult:
    """Carry out one trial; once more where its data stalled, and with half the batch where memory is short."""
    try:
        return _try(state, job)
    except StalledError:
        return _try(state, job)
    except (RuntimeError, MemoryError, PrunecoreError) as error:
        if OutOfMemory.of(error, "try a proposal") is None:
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    half = _halved(state.config)
    try:
        return dataclasses.replace(_try(dataclasses.replace(state, config=half), job), halved=True)
    except (RuntimeError, MemoryError, PrunecoreError) as error:
        short = OutOfMemory.of(error, "try a proposal")
        if short is None:
            raise
        advice = "lower the batch_size of retraining, recalibration and evaluation"
        raise OutOfMemory(f"{short}, also with half the batch; {advice}") from error


def _try(state: TrialState, job: TrialJob) -> TrialResult:
    started = time.perf_counter()
    config, proposal = state.config, job.proposal
    base = apply_recipe(state.loaded.model, job.recipe)
    base.load_state_dict(job.weights)
    model, step = base, Recipe()
    if proposal.kept:
        model, step = state.manager.hook.prune_resize(model=base, graph=job.graph, proposal=proposal)
    seed = seed_of(config.seed, proposal)
    seen = _Seen()
    model.register_forward_pre_hook(seen, with_kwargs=True)
    if config.recalibration is not None and (proposal.kept or proposal.calibration is not None):
        settings = config.recalibration
        if proposal.calibration is not None:
            settings = settings.model_copy(update={"images": proposal.calibration})
        model = recalibrate(model, state.task.train, state.task, settings, device=state.device, seed=seed)
    recalibrated = seen.forward
    if proposal.tune is not None:
        model = _tuned(state, job, model, compose(job.recipe, step), phase=proposal.tune)
    data = measured_on(state.search_data, proposal.images, config.seed)
    score = evaluate(model, data, state.task, config.evaluation, device=state.device)
    if math.isnan(score.value):  # NaN has no place in an order
        raise ModelError(
            f"the metric {score.name} is nan on {score.images} images of the search split; expected a number"
        )
    return TrialResult(score, recalibrated + score.images, seen.backward, time.perf_counter() - started)


def _tuned(state: TrialState, job: TrialJob, model: nn.Module, recipe: Recipe, *, phase: Phase) -> nn.Module:
    """A short fine-tune by the plugin in use, or by the core's own loop."""
    settings, batches = phases_of(state.config), job.proposal.batches
    if batches is not None:
        short = settings[phase].model_copy(update={"epochs": 1, "max_batches": batches})
        settings = {**settings, phase: short}
    default = DefaultTraining(settings, device=state.device, distillation=state.config.distillation, emit=_diverged)
    teacher = None
    if job.teacher is not None:
        teacher = apply_recipe(state.loaded.model, Recipe())
        teacher.load_state_dict(job.teacher)
    state.manager.register(default)
    try:
        tuned: nn.Module = state.manager.hook.prune_fine_tune(
            model=model,
            phase=phase,
            task=state.task,
            teacher=teacher,
            recipe=recipe,
            seed=seed_of(state.config.seed, job.proposal),
        )
    finally:
        state.manager.unregister(default)
    return tuned


def _diverged(event: Mapping[str, Any]) -> None:
    """A step keeps the last good weights; a trial says nothing about its proposal any more."""
    if event["event"] == "training_stopped":
        raise TrainingError(str(event["reason"]))


class _Seen:
    """Counts the images that a network and its copies in this process are trained on, whoever trains them, and those that they
    only see."""

    def __init__(self) -> None:
        self.forward = self.backward = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        images = images_in(args or kwargs)
        if module.training and torch.is_grad_enabled():
            self.backward += images
        else:
            self.forward += images

    def __deepcopy__(self, memo: object) -> _Seen:
        return self


def _halved(config: RunConfig) -> RunConfig:
    changed = {
        name: settings.model_copy(update={"batch_size": min(settings.batch_size, max(2, settings.batch_size // 2))})
        for name in ("training", "retraining", "pretraining", "evaluation", "recalibration")
        if (settings := getattr(config, name)) is not None
    }
    return config.model_copy(update=changed)
