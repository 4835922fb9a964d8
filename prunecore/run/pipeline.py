"""`prune run`, top to bottom: every step takes values and returns new ones; nothing is written back.

config -> plugins -> model -> task -> baseline -> search (plan, cut, certify, recalibrate, fine-tune a round) -> saved model -> result
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from prunecore.config.reader import Parsed
from prunecore.files import write_json, write_text
from prunecore.registry import build_manager
from prunecore.run import directory as files
from prunecore.run.defaults import DefaultSurgery, DefaultTraining
from prunecore.run.loading import check_forward, load_model, load_task
from prunecore.run.result import Outcome, result_of
from prunecore.run.rounds import Analysis, Bench, Workshop, apply, bench_of, cut, propose, unprunable_of
from prunecore.run.search import DefaultSearch, Problem, check_schedule, drive
from prunecore.run.stages import Snapshot, Stages, scratch_file
from prunecore.surgery import apply_recipe, compensate, compose, recipe_from_dict, recipe_to_dict
from prunecore.training import as_example, batches, derive_seed, evaluate, recalibrate, resolve_device, seeded
from prunecore.types import (
    Candidate,
    Certificate,
    Cost,
    LoadedModel,
    Phase,
    Proposal,
    Recipe,
    Score,
    Target,
    Task,
    Unprunable,
)

if TYPE_CHECKING:
    from torch import nn

    from prunecore.config.schema import RunConfig

Emit = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Run:
    """What is settled before the first stage. task.train is the part that trains; `search_data` chooses; validation reports."""

    config: RunConfig
    hook: Any
    loaded: LoadedModel
    task: Task
    search_data: Any
    bench: Bench
    stages: Stages
    emit: Emit

    @property
    def target(self) -> Target:
        return self.bench.target


def run(parsed: Parsed, out: Path, *, listeners: Sequence[Any] = (), resume: bool = False) -> dict[str, Any]:
    """Carry out a run in `out` and return what `result.json` holds.

    Everything that can be refused is refused before `out` is made. Raises PrunecoreError.
    """
    started = time.monotonic()
    files.check(out, resume=resume)
    it, schedule = settle(parsed, out, listeners)
    files.make(out)
    with files.locked(out):
        if not resume:
            write_text(out / files.CONFIG, config_text(parsed))
        start = baseline(it)
        chosen, unprunable, candidates = search(it, start, schedule)
        outcome = Outcome(
            algorithm=next(c.name for c in parsed.choices if c.role == "algorithm"),
            criterion=parsed.criterion,
            target=it.target,
            before=start.cost,
            after=chosen.cost,
            size=chosen.size,
            size_total=size_total(it.loaded, chosen, it.target),
            stages=chosen.stages,
            certificate=chosen.certificate or Certificate(False, 0.0, (), "float64", ("nothing was cut",)),
            unprunable=unprunable,
            notes=chosen.notes,
            recipe=chosen.recipe,
            ledger={"candidates": candidates, "rounds": len(schedule)},
            control=control_of(it, start),
            seconds=time.monotonic() - started,
            seed=it.config.seed,
            provenance=it.loaded.provenance,
        )
        return save(it, chosen, outcome, out)


def settle(parsed: Parsed, out: Path, listeners: Sequence[Any]) -> tuple[Run, tuple[float, ...]]:
    """Plugins, network, task, bench and schedule, checked against each other. Nothing is written."""
    config = parsed.config
    manager = build_manager(parsed.choices, defaults=(DefaultSearch(), DefaultSurgery(), *listeners))
    hook = manager.hook

    def emit(event: Mapping[str, Any]) -> None:
        hook.prune_event(event=event)

    phases = {"training": config.training, "pretraining": config.pretraining or config.training}
    manager.register(DefaultTraining(phases, device=config.device, scratch=lambda n: scratch_file(out, n), emit=emit))
    resolve_device(config.device)
    loaded = load_model(hook, config.model.kind, seed=config.seed)
    check_forward(loaded.model, loaded.inputs)
    task, search_data = load_task(hook, fraction=config.search_fraction, seed=config.seed)
    target = config.target.target()
    schedule = check_schedule(hook.prune_schedule(target=target), target)
    bench = bench_of(hook, loaded.model, loaded.inputs, target, seed=config.seed, task=task, device=config.device)
    try_one_batch(loaded, task, config, emit)
    stages = Stages(out, lambda recipe: apply_recipe(loaded.model, recipe))
    return Run(config, hook, loaded, task, search_data, bench, stages, emit), schedule


def try_one_batch(loaded: LoadedModel, task: Task, config: RunConfig, emit: Emit) -> None:
    """What does not fit (network and data, outputs and classes) is refused before anything is written."""
    evaluate(
        loaded.model,
        task.validation,
        task,
        config.evaluation.model_copy(update={"max_batches": 1}),
        device=config.device,
    )
    item, traced = task.validation[0][0], next(iter(loaded.inputs.args), None)
    if isinstance(item, torch.Tensor) and isinstance(traced, torch.Tensor) and item.shape != traced.shape[1:]:
        text = f"MACs are counted at {tuple(traced.shape[1:])}, the data are {tuple(item.shape)}: give model.size or data.size"
        emit({"event": "warning", "text": text})


def config_text(parsed: Parsed) -> str:
    """The resolved configuration as YAML."""
    settings = parsed.config.model_dump(mode="json")
    for choice in parsed.choices:
        if choice.role in {"loader", "task"}:  # with paths that mean the same from any directory
            settings["model" if choice.role == "loader" else "data"] = {"kind": choice.name, **choice.section}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------- stages


def score(it: Run, name: str, model: nn.Module, data: Any) -> Score:
    """Evaluate once; the record is read back on resume."""
    found = it.stages.value(
        name,
        lambda: dataclasses.asdict(evaluate(model, data, it.task, it.config.evaluation, device=it.config.device)),
    )
    it.emit({"event": "score", "stage": name, **found})
    return Score(**found)


def baseline(it: Run) -> Candidate:
    """The network as loaded, trained first where the configuration asks for it, with its cost and metric."""
    model = it.stages.run("loaded", lambda: Snapshot(it.loaded.model)).model
    if it.config.pretraining is not None:
        it.emit({"event": "stage", "name": "pretraining"})
        model = it.stages.run("pretraining", lambda: Snapshot(fine_tune(it, model, "pretraining", "pretraining"))).model
    elif not it.loaded.pretrained:
        it.emit(
            {
                "event": "warning",
                "text": "the network has random weights: pruning holds quality, it does not make it; give --weights or set pretraining",
            }
        )
    before = score(it, "before", model, it.task.validation)
    stages = dict.fromkeys(("before", "after_cut", "after_repair", "after"), before)
    return Candidate(0, model, Recipe(), it.bench.original, 1.0, stages=stages)


def search(it: Run, start: Candidate, schedule: tuple[float, ...]) -> tuple[Candidate, tuple[Unprunable, ...], int]:
    """Let the algorithm ask for candidates until it chooses one; also what could not be cut, and how many it asked for."""
    workshop = Workshop(it.bench, start)

    def plan(candidate: Candidate, reduce: float) -> Proposal:
        def compute() -> dict[str, Any]:
            it.emit({"event": "stage", "name": "analysis"})
            made = workshop.propose(candidate, reduce)
            return {"kept": {name: index.tolist() for name, index in made.kept.items()}, "notes": list(made.notes)}

        found = it.stages.value(f"plan-{candidate.number}-{reduce:.6f}", compute)
        kept = {name: np.asarray(index, dtype=np.int64) for name, index in found["kept"].items()}
        return Proposal(kept, candidate.number, reduce, notes=tuple(found["notes"]))

    def realise(proposal: Proposal, number: int) -> Candidate:
        base = workshop.candidate(proposal.base)
        made, frozen = round_of(it, base, proposal, f"candidate-{number}", lambda: workshop.analysis(base))
        return workshop.add(dataclasses.replace(made, number=number), frozen)

    problem = Problem(start, it.target, schedule, it.config.seed, plan)
    chosen = drive(it.hook.prune_search(problem=problem), realise)
    return chosen, unprunable_of(it.bench.graph, workshop.given_up), workshop.candidates - 1


def round_of(
    it: Run, base: Candidate, proposal: Proposal, name: str, analysis: Callable[[], Analysis]
) -> tuple[Candidate, Mapping[str, str]]:
    """Proposal -> cut -> certificate -> recalibration -> fine-tune -> candidate, each step a stage of its own.

    Also the groups that had to be frozen, with the reason. `name` names the stages and seeds them.
    """
    it.emit({"event": "round", "name": name, "reduce": proposal.reduce})

    def compute_cut() -> Snapshot:
        made = cut(it.bench, base, analysis(), proposal)
        proof, cost = dataclasses.asdict(made.certificate), dataclasses.asdict(made.cost)
        facts: dict[str, Any] = {"certificate": proof, "cost": cost, "frozen": dict(made.frozen)}
        facts |= {"size": made.size, "notes": list(made.notes), "step": recipe_to_dict(made.recipe)}
        return Snapshot(made.model, apply(base, made), facts)

    pure = it.stages.run(f"{name}/cut", compute_cut)
    certificate, cost, size = certificate_of(pure.data["certificate"]), Cost(**pure.data["cost"]), pure.data["size"]
    it.emit({"event": "cut", "size": size, "macs": cost.macs, "params": cost.params, "certificate": certificate})
    stages = {
        "before": base.stages["before"],
        "after_cut": score(it, f"{name}/after_cut", pure.model, it.task.validation),
    }

    def compute_repair() -> Snapshot:
        mended = compensated(it, base.model, pure.model, recipe_from_dict(pure.data["step"]), name)
        return Snapshot(repair(it, mended, name), pure.recipe)

    repaired = it.stages.run(f"{name}/repair", compute_repair).model
    stages["after_repair"] = score(it, f"{name}/after_repair", repaired, it.task.validation)

    tuned = repaired
    if proposal.tune is not None and it.config.training.epochs:
        phase = proposal.tune
        it.emit({"event": "stage", "name": "fine-tune"})
        tuned = it.stages.run(
            f"{name}/fine-tune", lambda: Snapshot(fine_tune(it, repaired, phase, name), pure.recipe)
        ).model
        stages["after"] = score(it, f"{name}/after", tuned, it.task.validation)
    else:
        stages["after"] = stages["after_repair"]
    chooses = score(it, f"{name}/search", tuned, it.search_data)
    notes = tuple(pure.data["notes"])
    candidate = Candidate(0, tuned, pure.recipe, cost, size, chooses, certificate, stages, notes)
    frozen: Mapping[str, str] = pure.data["frozen"]
    return candidate, frozen


def certificate_of(facts: Mapping[str, Any]) -> Certificate:
    """A certificate from its plain values."""
    inputs = tuple(tuple(int(n) for n in shape) for shape in facts["inputs"])
    return Certificate(facts["verified"], facts["max_abs_error"], inputs, facts["dtype"], tuple(facts["notes"]))


def fine_tune(it: Run, model: nn.Module, phase: Phase, name: str) -> nn.Module:
    """Train by the plugin in use, or by the core's own loop."""
    seed = derive_seed(it.config.seed, phase, name)
    tuned: nn.Module = it.hook.prune_fine_tune(model=model, phase=phase, task=it.task, teacher=None, seed=seed)
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
            workers=settings.workers,
        )
        seen = [as_example(inputs) for inputs, _ in data]
    return compensate(before, cut_model, recipe, it.loaded.inputs, batches=seen)


def repair(it: Run, model: nn.Module, name: str) -> nn.Module:
    """Recalibrate BatchNorm, unless the configuration says not to."""
    if it.config.recalibration is None:
        return model
    seed = derive_seed(it.config.seed, "recalibration", name)
    return recalibrate(model, it.task.train, it.task, it.config.recalibration, device=it.config.device, seed=seed)


def control_of(it: Run, start: Candidate) -> dict[str, Any] | None:
    """The random control: one cut at random to the run's target, repaired as the real one, fine-tuned where `control: full`."""
    if it.config.control == "none":
        return None
    it.emit({"event": "stage", "name": "random control"})
    seed = derive_seed(it.config.seed, "control")
    generator = np.random.default_rng(seed)
    groups = it.bench.graph.groups
    scores = {g.name: torch.from_numpy(generator.random(g.channels, dtype=np.float32)) for g in groups}
    analysis = Analysis(it.bench.graph, scores)
    tune: Phase | None = "training" if it.config.control == "full" else None
    proposal = dataclasses.replace(propose(it.bench, start, analysis, it.target.reduce), tune=tune)
    made, _ = round_of(it, start, proposal, "control", lambda: analysis)
    values = {stage: found.value for stage, found in made.stages.items() if stage != "before"}
    return {"criterion": "random", "size": made.size, **values, "after": values["after"] if tune else None}


# ---------------------------------------------------------------- the end


def size_total(loaded: LoadedModel, chosen: Candidate, target: Target) -> float:
    """The size relative to the original network, where runs are chained; of MACs, unless the measure is params."""
    original = loaded.provenance.get("original")
    if original is None:
        return chosen.size
    if target.measure == "params":
        return chosen.cost.params / int(original["params"])
    return chosen.cost.macs / int(original["macs"])


def save(it: Run, chosen: Candidate, outcome: Outcome, out: Path) -> dict[str, Any]:
    """Write the network, its recipe, the loader's own format, the metrics and, last of all, `result.json`."""
    files.write_weights(out / files.WEIGHTS, chosen.model)
    # on disk a recipe is relative to the original class, also where runs are chained
    recipe = compose(it.loaded.recipe, chosen.recipe) if it.loaded.recipe.slices else chosen.recipe
    write_json(out / files.RECIPE, recipe_to_dict(recipe))
    it.hook.prune_save_model(loaded=it.loaded, pruned=chosen.model, recipe=recipe, directory=out)
    rows = ["stage,metric,value,loss,images"]
    rows += [f"{stage},{s.name},{s.value},{s.loss},{s.images}" for stage, s in outcome.stages.items()]
    write_text(out / "metrics.csv", "\n".join(rows) + "\n")
    result = result_of(outcome)
    write_json(out / files.RESULT, result)
    it.emit({"event": "done", "result": result, "directory": str(out)})
    return result
