"""`prune run`, top to bottom: every step takes values and returns new ones; nothing is written back.

config -> plugins -> model -> task -> baseline -> search (plan, cut, certify, recalibrate, fine-tune a round) -> saved model -> result
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from torch.utils import _pytree as pytree

from prunecore.config.reader import Parsed
from prunecore.errors import ConfigError, ModelError
from prunecore.planning import reachable
from prunecore.registry import build_manager
from prunecore.run import directory as files
from prunecore.run.defaults import DefaultSurgery, DefaultTraining
from prunecore.run.result import Outcome, result_of
from prunecore.run.rounds import Analysis, Bench, Workshop, apply, cost_of, cut, propose, size_of, trace, unprunable_of
from prunecore.run.search import DefaultSearch, Problem, check_schedule, drive
from prunecore.run.stages import Snapshot, Stages
from prunecore.surgery import apply_recipe, compensate, compose, recipe_from_dict, recipe_to_dict
from prunecore.training import as_example, batches, derive_seed, evaluate, recalibrate, resolve_device, split
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
    criterion: str
    hook: Any
    loaded: LoadedModel
    task: Task
    search_data: Any
    target: Target
    original: Cost
    stages: Stages
    emit: Emit

    @property
    def bench(self) -> Bench:
        return Bench(self.hook, self.loaded.inputs, self.target, self.original, self.config.seed, self.task)


def run(parsed: Parsed, out: Path, *, listeners: Sequence[Any] = (), resume: bool = False) -> dict[str, Any]:
    """Carry out a run in `out` and return what `result.json` holds.

    Everything that can be refused is refused before `out` is made. Raises PrunecoreError.
    """
    started = time.monotonic()
    scratch: list[Stages] = []
    manager = build_manager(parsed.choices, defaults=(DefaultSearch(), DefaultSurgery()))
    for listener in listeners:
        manager.register(listener)

    def emit(event: Mapping[str, Any]) -> None:
        manager.hook.prune_event(event=event)

    training = DefaultTraining(
        {
            "training": parsed.config.training,
            **({"pretraining": parsed.config.pretraining} if parsed.config.pretraining else {}),
        },
        device=parsed.config.device,
        scratch=lambda name: scratch[0].scratch(name),
        emit=emit,
    )
    manager.register(training)
    resolve_device(parsed.config.device)
    loaded = load(manager.hook, parsed.config)
    task, search_data = load_task(manager.hook, parsed.config)
    target = parsed.config.target.target()
    schedule = check_schedule(manager.hook.prune_schedule(target=target), target)
    refuse_early(manager.hook, loaded, target)
    original = cost_of(loaded.model, loaded.inputs, target.measure)

    out = files.prepare(out, resume=resume)
    with files.locked(out):
        if not resume:
            files.write_text(out / files.CONFIG, config_text(parsed))
        scratch.append(Stages(out, lambda recipe: apply_recipe(loaded.model, recipe)))
        it = Run(
            parsed.config, parsed.criterion, manager.hook, loaded, task, search_data, target, original, scratch[0], emit
        )
        start, before = baseline(it)
        chosen, analysis = search(it, start, schedule)
        control = control_of(it, start)
        outcome = Outcome(
            algorithm=next(c.name for c in parsed.choices if c.role == "algorithm"),
            criterion=parsed.criterion,
            target=target,
            before=start.cost,
            after=chosen.cost,
            size=chosen.size,
            size_total=chosen.size * float(loaded.provenance.get("size_total", 1.0)),
            stages={"before": before, **chosen.stages},
            certificate=chosen.certificate or Certificate(False, 0.0, (), "float64", ("nothing was cut",)),
            unprunable=analysis,
            recipe=chosen.recipe,
            seconds=time.monotonic() - started,
            ledger={"candidates": chosen.number, "rounds": len(schedule)},
            control=control,
            seed=parsed.config.seed,
            provenance=loaded.provenance,
        )
        return save(it, chosen, outcome, out)


# ---------------------------------------------------------------- before the first stage


def load(hook: Any, config: RunConfig) -> LoadedModel:
    """The network, checked by one forward on its example inputs."""
    torch.manual_seed(derive_seed(config.seed, "model"))
    loaded: LoadedModel | None = hook.prune_load_model()
    if loaded is None:
        raise ConfigError(f"model: the loader {config.model.kind!r} gave no network")
    check_forward(loaded)
    return loaded


def check_forward(loaded: LoadedModel) -> None:
    """One forward in eval mode; ModelError with the shapes where it fails or gives a value that is not finite."""
    model = copy.deepcopy(loaded.model).eval()
    shapes = [
        tuple(x.shape)
        for x in pytree.tree_leaves((loaded.inputs.args, dict(loaded.inputs.kwargs)))
        if isinstance(x, torch.Tensor)
    ]
    try:
        with torch.no_grad():
            outputs = model(*loaded.inputs.args, **loaded.inputs.kwargs)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the network does not run on inputs of shape {shapes}: {first}; give model.size or model.inputs"
        ) from error
    leaves = [x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if any(not bool(torch.isfinite(x).all()) for x in leaves):
        raise ModelError(f"the network gives NaN or infinity on inputs of shape {shapes}; check its weights")


def load_task(hook: Any, config: RunConfig) -> tuple[Task, Any]:
    """The task with its training data split in two: what trains stays in `task.train`, the rest chooses."""
    task: Task | None = hook.prune_task()
    if task is None:
        raise ConfigError("data: a run needs data to report what the cut costs; give --data, such as --data digits")
    fit, search_data = split(task, config.search_fraction, derive_seed(config.seed, "split"))
    return dataclasses.replace(task, train=fit, labels=None), search_data


def refuse_early(hook: Any, loaded: LoadedModel, target: Target) -> None:
    """TargetError with the reachable range before anything is trained."""
    if target.measure != "ptflops":
        graph = trace(hook, loaded.model, loaded.inputs)
        reachable(graph, target).require(target.reduce)


def config_text(parsed: Parsed) -> str:
    """The resolved configuration as YAML."""
    settings = parsed.config.model_dump(mode="json", exclude_none=True)
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


def baseline(it: Run) -> tuple[Candidate, Score]:
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
    return Candidate(0, model, Recipe(), it.original, 1.0), before


def search(it: Run, start: Candidate, schedule: tuple[float, ...]) -> tuple[Candidate, tuple[Unprunable, ...]]:
    """Let the algorithm ask for candidates until it chooses one; also what could not be cut."""
    workshop = Workshop(it.bench, start)

    def plan(candidate: Candidate, reduce: float) -> Proposal:
        def compute() -> dict[str, Any]:
            it.emit({"event": "stage", "name": "analysis"})
            kept = workshop.propose(candidate, reduce).kept
            return {"kept": {name: index.tolist() for name, index in kept.items()}}

        found = it.stages.value(f"plan-{candidate.number}-{reduce:.6f}", compute)
        kept = {name: np.asarray(index, dtype=np.int64) for name, index in found["kept"].items()}
        return Proposal(kept, candidate.number, reduce)

    def realise(proposal: Proposal, number: int) -> Candidate:
        base = workshop.candidate(proposal.base)
        made, frozen = round_of(it, base, proposal, f"candidate-{number}", lambda: workshop.analysis(base))
        return workshop.add(dataclasses.replace(made, number=number), frozen)

    problem = Problem(start, it.target, schedule, it.config.seed, plan)
    chosen = drive(it.hook.prune_search(problem=problem), realise)
    return chosen, unprunable_of(trace(it.hook, start.model, it.loaded.inputs), workshop.given_up)


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
        facts = {"certificate": proof, "cost": cost, "frozen": dict(made.frozen), "step": recipe_to_dict(made.recipe)}
        return Snapshot(made.model, apply(base, made), facts)

    pure = it.stages.run(f"{name}/cut", compute_cut)
    certificate, cost = certificate_of(pure.data["certificate"]), Cost(**pure.data["cost"])
    size = size_of(cost, it.bench.original, it.target.measure)
    it.emit({"event": "cut", "size": size, "macs": cost.macs, "params": cost.params, "certificate": certificate})
    stages = {"after_cut": score(it, f"{name}/after_cut", pure.model, it.task.validation)}

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
    candidate = Candidate(0, tuned, pure.recipe, cost, size, chooses, certificate, stages)
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
    data = batches(
        it.task.train,
        it.task,
        batch_size=settings.batch_size,
        images=settings.images,
        seed=derive_seed(it.config.seed, "compensation", name),
        workers=settings.workers,
    )
    return compensate(before, cut_model, recipe, it.loaded.inputs, batches=(as_example(inputs) for inputs, _ in data))


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
    graph = trace(it.hook, start.model, it.loaded.inputs)
    generator = np.random.default_rng(seed)
    scores = {g.name: torch.from_numpy(generator.random(g.channels, dtype=np.float32)) for g in graph.groups}
    analysis = Analysis(graph, scores)
    tune: Phase | None = "training" if it.config.control == "full" else None
    proposal = dataclasses.replace(propose(it.bench, start, analysis, it.target.reduce), tune=tune)
    made, _ = round_of(it, start, proposal, "control", lambda: analysis)
    values = {stage: found.value for stage, found in made.stages.items()}
    return {"criterion": "random", "size": made.size, **values, "after": values["after"] if tune else None}


# ---------------------------------------------------------------- the end


def save(it: Run, chosen: Candidate, outcome: Outcome, out: Path) -> dict[str, Any]:
    """Write the network, its recipe, the loader's own format, the metrics and, last of all, `result.json`."""
    files.write_weights(out / files.WEIGHTS, chosen.model)
    # on disk a recipe is relative to the original class, also where runs are chained
    recipe = compose(it.loaded.recipe, chosen.recipe) if it.loaded.recipe.slices else chosen.recipe
    files.write_json(out / files.RECIPE, recipe_to_dict(recipe))
    it.hook.prune_save_model(loaded=it.loaded, pruned=chosen.model, recipe=recipe, directory=out)
    rows = ["stage,metric,value,loss,images"]
    rows += [f"{stage},{s.name},{s.value},{s.loss},{s.images}" for stage, s in outcome.stages.items()]
    files.write_text(out / "metrics.csv", "\n".join(rows) + "\n")
    result = result_of(outcome)
    files.write_json(out / files.RESULT, result)
    it.emit({"event": "done", "result": result, "directory": str(out)})
    return result
