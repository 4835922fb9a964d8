"""One step of a run: a proposal is cut, certified, repaired and fine-tuned; each part is a stage that is kept.

proposal -> cut -> certificate -> compensation -> recalibration -> fine-tune -> candidate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prunecore.errors import listing
from prunecore.run.context import Run
from prunecore.run.loading import measured_on
from prunecore.run.rounds import Analysis, apply, cut, uncut
from prunecore.run.stages import Kept, Snapshot
from prunecore.surgery import apply_recipe, compensate, recipe_from_dict, recipe_to_dict
from prunecore.training import as_example, batches, derive_seed, evaluate, recalibrate, seeded
from prunecore.types import Candidate, Certificate, Cost, Phase, Proposal, Recipe, Score

if TYPE_CHECKING:
    from torch import nn

Taught = tuple["nn.Module", Recipe]


def score(it: Run, name: str, subject: Kept, data: Any) -> Score:
    """Evaluate once; the record is read back on resume."""
    found = it.stages.value(
        name,
        lambda: dataclasses.asdict(
            evaluate(subject.model, data, it.task, it.config.evaluation, device=it.config.device)
        ),
    )
    it.emit({"event": "score", "stage": name, **found})
    return Score(**found)


def round_of(
    it: Run, start: Candidate, base: Candidate, proposal: Proposal, name: str, analysis: Callable[[], Analysis]
) -> tuple[Candidate, Mapping[str, str]]:
    """Proposal -> cut -> certificate -> recalibration -> fine-tune -> candidate, each step a stage of its own.

    Also the groups that had to be frozen, with the reason. `name` names the stages and seeds them. A proposal that keeps
    everything is trained only. start: the network that the run began to cut; it teaches, where the run distils.
    """
    it.emit({"event": "round", "name": name, "reduce": proposal.reduce, "cuts": bool(proposal.kept)})
    pure = it.stages.run(f"{name}/cut", lambda: pure_cut(it, base, proposal, analysis))
    certificate, cost, size = certificate_of(pure.data["certificate"]), Cost(**pure.data["cost"]), pure.data["size"]
    it.emit({"event": "cut", "size": size, "macs": cost.macs, "params": cost.params, "certificate": certificate})
    phase, taught = proposal.tune, (start.model, pure.recipe)
    tunes = phase is not None and (getattr(it.config, phase) or it.config.training).epochs > 0
    on_the_way = tunes and phase == "retraining"  # of many such steps only what each comes to is measured
    stages = {"before": base.stages["before"]}
    if not proposal.kept:  # of the last cut, where they were measured
        stages |= {stage: base.stages[stage] for stage in ("after_cut", "after_repair") if stage in base.stages}
    elif not on_the_way:
        stages["after_cut"] = score(it, f"{name}/after_cut", pure, it.task.validation)
    repaired = it.stages.run(
        f"{name}/repair", lambda: Snapshot(mended(it, start, base, pure, name, cuts=bool(proposal.kept)), pure.recipe)
    )
    if proposal.kept and not on_the_way:
        stages["after_repair"] = score(it, f"{name}/after_repair", repaired, it.task.validation)

    tuned = repaired
    if phase is not None and tunes:
        it.emit({"event": "stage", "name": "fine-tune"})
        tuned = it.stages.run(
            f"{name}/fine-tune", lambda: Snapshot(fine_tune(it, repaired.model, phase, name, taught), pure.recipe)
        )
        stages["after"] = score(it, f"{name}/after", tuned, it.task.validation)
    elif proposal.kept:
        stages["after"] = stages["after_repair"]
    else:
        stages["after"] = score(it, f"{name}/after", tuned, it.task.validation)
    chooses = score(it, f"{name}/search", tuned, measured_on(it.search_data, proposal.images, it.config.seed))
    notes = tuple(pure.data["notes"])
    facts = {key: pure.data[key] for key in ("latency",) if key in pure.data}
    it.stages.drop(f"{name}/cut", *([f"{name}/repair"] if tuned is not repaired else []))
    candidate = Candidate(0, tuned, pure.recipe, cost, size, chooses, certificate, stages, notes, facts)
    frozen: Mapping[str, str] = pure.data["frozen"]
    return candidate, frozen


def pure_cut(it: Run, base: Candidate, proposal: Proposal, analysis: Callable[[], Analysis]) -> Snapshot:
    """The certified cut, nothing repaired, and what is recorded of it."""
    made = cut(it.bench, base, analysis(), proposal) if proposal.kept else uncut(base, proposal)
    given_up = made.frozen.keys() - analysis().frozen.keys() if proposal.kept else ()
    facts: dict[str, Any] = {
        "certificate": dataclasses.asdict(made.certificate),
        "cost": dataclasses.asdict(made.cost),
        "frozen": dict(made.frozen),
        "size": made.size,
        "notes": list(made.notes),
        "step": recipe_to_dict(made.recipe),
        "base": proposal.base,
        "reduce": proposal.reduce,
        "why": told_why(proposal, given_up),
    }
    facts |= {} if made.latency is None else {"latency": dict(made.latency)}
    return Snapshot(made.model, apply(base, made), facts)


def mended(it: Run, start: Candidate, base: Candidate, pure: Kept, name: str, *, cuts: bool) -> nn.Module:
    """The network of a cut, compensated and recalibrated, or rewound and recalibrated; as it is where nothing was cut."""
    origin: nn.Module | None = it.hook.prune_rewind(start=start.model)
    if origin is not None:
        return repair(it, apply_recipe(origin, pure.recipe), name)
    if not cuts:
        return pure.model
    return repair(it, compensated(it, base.model, pure.model, recipe_from_dict(pure.data["step"]), name), name)


def told_why(proposal: Proposal, given_up: Iterable[str]) -> str:
    """Why a step was made. given_up: groups whose cut failed its certificate, for which the planner then cut others."""
    groups = sorted(given_up)
    if not groups or not proposal.why:
        return proposal.why
    return f"planned by the criterion, since the certificate of a cut of {listing(groups)} failed; chosen was: {proposal.why}"


def certificate_of(facts: Mapping[str, Any]) -> Certificate:
    """A certificate from its plain values."""
    inputs = tuple(tuple(int(n) for n in shape) for shape in facts["inputs"])
    return Certificate(facts["verified"], facts["max_abs_error"], inputs, facts["dtype"], tuple(facts["notes"]))


def fine_tune(it: Run, model: nn.Module, phase: Phase, name: str, taught: Taught | None = None) -> nn.Module:
    """Train by the plugin in use, or by the core's own loop; taught: the unpruned network and how `model` was cut from it."""
    seed = derive_seed(it.config.seed, phase, name)
    teacher, recipe = taught or (None, Recipe())
    tuned: nn.Module = it.hook.prune_fine_tune(
        model=model, phase=phase, task=it.task, teacher=teacher, recipe=recipe, seed=seed
    )
    return tuned


def compensated(it: Run, before: nn.Module, cut_model: nn.Module, recipe: Recipe, name: str) -> nn.Module:
    """Fold the mean contribution of the removed channels into the layers behind them, unless told not to."""
    settings = it.config.compensation
    if settings is None:
        return cut_model
    seed = derive_seed(it.config.seed, "compensation", name)
    with seeded(seed):  # augmentation draws from torch's own generator
        data = batches(
            it.task.train,
            it.task,
            batch_size=settings.batch_size,
            images=settings.images,
            seed=seed,
            loading=settings,
        )
        seen = [as_example(inputs) for inputs, _ in data]
    return compensate(before, cut_model, recipe, it.loaded.inputs, batches=seen)


def repair(it: Run, model: nn.Module, name: str) -> nn.Module:
    """Recalibrate BatchNorm, unless the configuration says not to."""
    if it.config.recalibration is None:
        return model
    seed = derive_seed(it.config.seed, "recalibration", name)
    return recalibrate(model, it.task.train, it.task, it.config.recalibration, device=it.config.device, seed=seed)
