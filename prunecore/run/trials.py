"""Trials: proposals cut, repaired, tuned as asked, measured on the search split and thrown away, by workers in parallel.

A worker has the network as loaded, the task and the plugins; a job brings the candidate that is cut, and what to do with it.
Trials carry no certificate: what a search goes on from is cut again as a step, with one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prunecore.config.reader import Parsed
from prunecore.errors import OutOfMemory, PrunecoreError
from prunecore.registry import build_manager
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.loading import load_model, load_task
from prunecore.surgery import apply_recipe, compose
from prunecore.training import Teacher, derive_seed, evaluate, fine_tune, recalibrate, subset
from prunecore.training.data import length_of
from prunecore.types import Proposal, Recipe, Score

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunecore.config.schema import RunConfig
    from prunecore.types import DependencyGraph, LoadedModel, Task


@dataclass(frozen=True, eq=False)
class TrialState:
    """What every worker has, the same for all jobs."""

    config: RunConfig
    hook: Any
    loaded: LoadedModel
    task: Task
    search_data: Any
    device: str


@dataclass(frozen=True, eq=False)
class TrialJob:
    """What is tried. recipe, weights: of the candidate that is cut, relative to the network as loaded."""

    proposal: Proposal
    recipe: Recipe
    weights: Mapping[str, Tensor]
    graph: DependencyGraph
    teacher: Mapping[str, Tensor] | None
    name: str


@dataclass(frozen=True)
class TrialResult:
    """score: on the search split. forward, backward: images that went through the network. halved: memory was short once."""

    score: Score
    forward: int
    backward: int
    seconds: float
    halved: bool = False


def build_state(device: str, parsed: Parsed) -> TrialState:
    """What a worker builds once."""
    roles = {"loader", "task", "graph", "algorithm", "extension"}
    choices = [choice for choice in parsed.choices if choice.role in roles]
    hook = build_manager(choices, defaults=(DefaultSurgery(),)).hook
    config = parsed.config
    loaded = load_model(hook, config.model.kind, seed=config.seed)
    task, search_data = load_task(hook, fraction=config.search_fraction, seed=config.seed)
    return TrialState(config, hook, loaded, task, search_data, device)


def try_proposal(state: TrialState, job: TrialJob) -> TrialResult:
    """Carry out one trial; where memory is short it is tried once more with half the batch."""
    try:
        return _try(state, job)
    except (RuntimeError, MemoryError, PrunecoreError) as error:
        if OutOfMemory.of(error, "try a proposal") is None and not isinstance(error, OutOfMemory):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    half = _halved(state.config)
    return dataclasses.replace(_try(dataclasses.replace(state, config=half), job), halved=True)


def _try(state: TrialState, job: TrialJob) -> TrialResult:
    started = time.perf_counter()
    config, proposal = state.config, job.proposal
    base = apply_recipe(state.loaded.model, job.recipe)
    base.load_state_dict(job.weights)
    model, step = base, Recipe()
    if proposal.kept:
        model, step = state.hook.prune_resize(model=base, graph=job.graph, proposal=proposal)
    seed = derive_seed(config.seed, "trial", job.name)
    forward = 0
    if config.recalibration is not None and proposal.kept:
        settings = config.recalibration
        if proposal.calibration is not None:
            settings = settings.model_copy(update={"images": proposal.calibration})
        model = recalibrate(model, state.task.train, state.task, settings, device=state.device, seed=seed)
        forward += min(settings.images, length_of(state.task.train, "the training split"))
    backward = 0
    if proposal.tune is not None:
        model, backward = _tuned(state, job, model, step, seed)
    data = subset(state.search_data, proposal.images, derive_seed(config.seed, "subset"))
    score = evaluate(model, data, state.task, config.evaluation, device=state.device)
    return TrialResult(score, forward + score.images, backward, time.perf_counter() - started)


def _tuned(state: TrialState, job: TrialJob, model: nn.Module, step: Recipe, seed: int) -> tuple[nn.Module, int]:
    """A short fine-tune, and how many images it took."""
    config, proposal = state.config, job.proposal
    settings = config.training if proposal.tune == "training" else config.retraining
    if proposal.batches is not None:
        settings = settings.model_copy(update={"epochs": 1, "max_batches": proposal.batches})
    seen: list[int] = []
    tuned = fine_tune(
        model,
        state.task,
        settings,
        device=state.device,
        seed=seed,
        teacher=_teacher(state, job, step),
        on_event=lambda event: seen.append(event["images"]) if event["event"] == "epoch" else None,
    )
    return tuned, sum(seen)


def _teacher(state: TrialState, job: TrialJob, step: Recipe) -> Teacher | None:
    if state.config.distillation is None or job.teacher is None:
        return None
    network = apply_recipe(state.loaded.model, Recipe())
    network.load_state_dict(job.teacher)
    return Teacher(network, state.config.distillation, compose(job.recipe, step))


def _halved(config: RunConfig) -> RunConfig:
    changed = {
        name: settings.model_copy(update={"batch_size": min(settings.batch_size, max(2, settings.batch_size // 2))})
        for name in ("training", "retraining", "evaluation", "recalibration")
        if (settings := getattr(config, name)) is not None
    }
    return config.model_copy(update=changed)
