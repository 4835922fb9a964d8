"""`prune run`, top to bottom: every step takes values and returns new ones; nothing is written back.

config -> plugins -> model -> task -> baseline -> search (plan, cut, certify, recalibrate, fine-tune a round) -> saved model -> result
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from prunecore.config.reader import Parsed, section_name
from prunecore.errors import CertificateError, ConfigError, RunDirectoryError, TargetError
from prunecore.execution import ExecutionSettings
from prunecore.execution.devices import worker_devices
from prunecore.files import write_json, write_text
from prunecore.planning import reachable
from prunecore.registry import LOCAL, build_manager, unused_of
from prunecore.report.facts import read_run
from prunecore.report.html import write_report
from prunecore.report.metrics import METRICS, metrics_csv
from prunecore.report.progress import estimated
from prunecore.run import directory as files
from prunecore.run.candidates import WORKERS_OR_LAUNCHER, Candidates, recorded_plan
from prunecore.run.context import Emit, Run
from prunecore.run.defaults import DefaultExecutor, DefaultSurgery, DefaultTraining, StoppedTrainings, phases_of
from prunecore.run.latency import check_device, described, with_tables
from prunecore.run.loading import check_forward, load_model, load_task
from prunecore.run.phases import seconds_by_phase
from prunecore.run.processes import World, joined
from prunecore.run.result import Outcome, result_of
from prunecore.run.rounds import Analysis, bench_of, notes_of, propose, unprunable_of
from prunecore.run.search import DefaultSearch, Problem, check_schedule, drive
from prunecore.run.stages import Snapshot, Stages, scratch_file
from prunecore.run.steps import fine_tune, round_of, score
from prunecore.surgery import apply_recipe, compose, recipe_to_dict
from prunecore.training import derive_seed, evaluate, fit_epochs, resolve_device
from prunecore.training.data import length_of
from prunecore.types import Candidate, Certificate, Cost, LoadedModel, Measure, Phase, Recipe, Target, Task

if TYPE_CHECKING:
    from prunecore.config.schema import RunConfig
    from prunecore.types import DependencyGraph

_WARM_UP, _TIMED = 1, 4  # batches
# keys of plugins that are named as `kind:source`; the others have a section of their own name
_SPECS = {"loader": "model", "task": "data", "executor": "executor"}


def run(parsed: Parsed, out: Path, *, listeners: Sequence[Any] = (), resume: bool = False) -> dict[str, Any]:
    """Carry out a run in `out` and return what `result.json` holds.

    Everything that can be refused is refused before `out` is made. Where a launcher started several processes, all call
    this, and the first one writes. Raises PrunecoreError.
    """
    started = time.monotonic()
    with joined(parsed.config.device) as world:
        if world.first:
            files.check(out, resume=resume, shared=parsed.config.share_directory)
        world.meet()
        it, schedule = settle(parsed, out, listeners, world, started)
        with files.held(out, world):
            if world.first and not resume:
                files.check(out, resume=False, shared=parsed.config.share_directory)  # another may have been here since
                write_text(out / files.CONFIG, config_text(parsed))
            if resume and (found := files.finished(out)) is not None:
                it.emit({"event": "done", "result": found, "directory": str(out)})  # a kill may have come before
                return found
            return carry_out(it, schedule)


def carry_out(it: Run, schedule: tuple[float, ...]) -> dict[str, Any]:
    """Every stage of a run whose directory is held."""
    it.emit({"event": "loaded", "model": it.loaded.model, "directory": str(it.stages.directory)})
    it = with_latency(it)
    start = baseline(it)
    tell_estimate(it, start, len(schedule))
    chosen, candidates = search(it, start, schedule)
    control, left_out = control_of(it, start)
    seconds = it.stages.value("seconds", lambda: {"seconds": it.stages.seconds})["seconds"]
    outcome = Outcome(
        algorithm=next(c.name for c in it.parsed.choices if c.role == "algorithm"),
        criterion=it.parsed.criterion,
        target=it.target,
        before=start.cost,
        after=chosen.cost,
        size=chosen.size,
        size_total=size_total(it.loaded, chosen, it.target),
        stages=chosen.stages,
        certificate=chosen.certificate or Certificate(False, 0.0, (), "float64", ("nothing was cut",)),
        unprunable=unprunable_of(it.bench.graph, candidates.workshop.given_up),
        notes=(*notes_on(it, chosen, candidates), *left_out, *StoppedTrainings.notes(it.stages)),
        recipe=chosen.recipe,
        ledger=ledger_of(it, candidates, seconds),
        control=control,
        seconds=seconds,
        seed=it.config.seed,
        provenance=it.loaded.provenance,
        latency=described(chosen.facts.get("latency"), it.bench.graph.latency),
    )
    result = result_of(outcome)
    it.stages.drop_scratch()
    if it.world.first:
        save(it, chosen, result, it.stages.directory)
    return result


def settle(
    parsed: Parsed, out: Path, listeners: Sequence[Any], world: World, started: float
) -> tuple[Run, tuple[float, ...]]:
    """Plugins, network, task, bench and schedule, checked against each other. Nothing is written."""
    config = parsed.config
    manager = build_manager(parsed.choices, defaults=(DefaultSearch(), DefaultSurgery(), *listeners))
    hook = manager.hook

    def emit(event: Mapping[str, Any]) -> None:
        if world.first:
            hook.prune_event(event=event)

    training = DefaultTraining(
        phases_of(config),
        device=config.device,
        distillation=config.distillation,
        scratch=lambda name: scratch_file(out, name),
        emit=emit,
    )
    manager.register(training)
    executor = ExecutionSettings.model_validate(config.executor.options if config.executor.kind == LOCAL else {})
    manager.register(DefaultExecutor(executor, device=config.device))
    resolve_device(config.device)
    check_device(config.latency, config.device)
    worker_devices(executor.workers or ())  # what this machine lacks is refused now, not when the search starts
    loaded = load_model(hook, config.model.kind, seed=config.seed)
    check_forward(loaded.model, loaded.inputs)
    task, search_data = load_task(hook, fraction=config.search_fraction, seed=config.seed)
    target = config.target.target()
    schedule = check_schedule(hook.prune_schedule(target=target), target)
    check_launcher(config, hook, world)
    hook.prune_rewind(start=loaded.model)  # weights that do not fit are refused now, not after the first round
    bench = bench_of(hook, loaded.model, loaded.inputs, target, seed=config.seed, task=task, device=config.device)
    try_one_batch(loaded, task, config, emit)
    for line in filter(None, map(unused_of, parsed.choices)):
        emit({"event": "warning", "text": line})
    stages = Stages(out, lambda recipe: apply_recipe(loaded.model, recipe), world, started=started)
    manager.register(StoppedTrainings(stages))
    return Run(parsed, hook, loaded, task, search_data, bench, stages, emit, world), schedule


def check_launcher(config: RunConfig, hook: Any, world: World) -> None:
    """Workers of a search are not started beside the processes of a launcher."""
    searches = len(hook.prune_search.get_hookimpls()) > 1
    if world.size > 1 and searches and (config.executor.kind != LOCAL or config.executor.options.get("workers")):
        raise ConfigError(WORKERS_OR_LAUNCHER)


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
    """The resolved configuration as YAML; paths in the options of plugins mean the same from any directory."""
    settings = parsed.config.model_dump(mode="json")
    for choice in parsed.choices:
        if choice.role in _SPECS:
            settings[_SPECS[choice.role]] = {"kind": choice.name, **choice.section}
        elif section := section_name(parsed.config.sections, choice.name):
            settings[section] = dict(choice.section)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------- stages


def with_latency(it: Run) -> Run:
    """Where the target is latency: its tables, measured once by the first process, before anything is trained."""
    if it.target.measure != "latency":
        return it

    def value(compute: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        it.emit({"event": "stage", "name": "latency tables"})
        return it.stages.value("latency-tables", compute if it.world.first else dict)

    return dataclasses.replace(it, bench=with_tables(it.bench, it.loaded.model, it.config.latency, value=value))


def baseline(it: Run) -> Candidate:
    """The network as loaded, trained first where the configuration asks for it, with its cost and metric."""
    kept = it.stages.run("loaded", lambda: Snapshot(it.loaded.model))
    if it.config.pretraining is not None:
        it.emit({"event": "stage", "name": "pretraining"})
        loaded = kept
        kept = it.stages.run("pretraining", lambda: Snapshot(fine_tune(it, loaded.model, "pretraining", "pretraining")))
    elif not it.loaded.pretrained:
        it.emit(
            {
                "event": "warning",
                "text": "the network has random weights: pruning holds quality, it does not make it; give --weights or set pretraining",
            }
        )
    before = score(it, "before", kept, it.task.validation)
    stages = dict.fromkeys(("before", "after_cut", "after_repair", "after"), before)
    return Candidate(0, kept.model, Recipe(), it.bench.original, 1.0, stages=stages)


def tell_estimate(it: Run, start: Candidate, rounds: int) -> None:
    """How long the run will take, by a timed part of an epoch; not where nothing is trained, where a run goes on, or where
    an algorithm has a search of its own, whose rounds nobody knows."""
    settings = it.config.training
    if (
        not settings.epochs
        or searches(it)
        or any(r["name"].startswith("candidate-") for r in it.stages.journal.records)
    ):
        return
    batches_of = max(1, length_of(it.task.train, "the training split") // settings.batch_size)
    batches_in_epoch = min(batches_of, settings.max_batches or batches_of)

    def timed(count: int) -> float:
        part = settings.model_copy(update={"epochs": 1, "max_batches": min(count, batches_in_epoch)})
        (epoch,) = fit_epochs(start.model, it.task, part, device=it.config.device, seed=it.config.seed)
        return epoch.seconds / min(count, batches_in_epoch)

    timed(_WARM_UP)
    epoch = timed(_TIMED) * batches_in_epoch
    facts = {"rounds": rounds, "epochs": settings.epochs, "epoch_seconds": epoch}
    it.emit({"event": "estimate", "seconds": estimated(epoch, epochs=settings.epochs, rounds=rounds), **facts})


def searches(it: Run) -> bool:
    """Whether the algorithm has a search of its own, whose rounds nobody knows beforehand."""
    return len(it.hook.prune_search.get_hookimpls()) > 1


def search(it: Run, start: Candidate, schedule: tuple[float, ...]) -> tuple[Candidate, Candidates]:
    """Let the algorithm ask for candidates until it chooses one; also all that was made for it."""
    with Candidates(it, start, None if searches(it) else len(schedule)) as candidates:
        problem = Problem(start, it.target, schedule, it.config.seed, candidates.plan, candidates.block_cuts)
        chosen = drive(it.hook.prune_search(problem=problem), candidates.realise)
        candidates.accept(chosen)
        return dataclasses.replace(chosen, recipe=in_order(chosen.recipe, it.bench.graph)), candidates


def in_order(recipe: Recipe, graph: DependencyGraph) -> Recipe:
    """The recipe with its widths from input to output; a search cuts groups in an order of its own."""
    places = {name: place for place, name in enumerate(graph.widths)}
    return dataclasses.replace(
        recipe, widths=tuple(sorted(recipe.widths, key=lambda w: places.get(w.group, len(places))))
    )


def notes_on(it: Run, chosen: Candidate, candidates: Candidates) -> tuple[str, ...]:
    """What stood in the way of the chosen network; also what limits it, where nothing was cut."""
    bench, frozen = it.bench, frozenset(candidates.workshop.given_up)
    notes = notes_of(bench, chosen, frozen)
    if chosen.recipe.widths:
        return notes
    limits = reachable(bench.graph, bench.target, frozen=frozen, widths=bench.widths).notes
    return (*notes, f"nothing was cut. What limits it: {'; '.join(limits)}")


def ledger_of(it: Run, candidates: Candidates, seconds: float) -> dict[str, Any]:
    """What the run took: candidates, the images that trials sent through networks, and the seconds of each phase.

    Trials of a network that nothing is cut from, which others are compared with, are no candidates; their images count.
    """
    trials = [t for t in candidates.trials if t.facts["widths"]]
    ranked = [t for t in trials if t.score is not None and not t.facts.get("backward")]
    rounds = candidates.workshop.candidates - 1
    return {
        "candidates": rounds + len(trials),
        "rounds": rounds,
        "trials": len(trials),
        "trials_ranked": len(ranked),
        "trials_tuned": sum(1 for t in trials if t.facts.get("backward")),
        "trials_failed": sum(1 for t in trials if t.score is None),
        "images_forward": sum(int(t.facts.get("forward", 0)) for t in candidates.trials),
        "images_backward": sum(int(t.facts.get("backward", 0)) for t in candidates.trials),
        "seconds": seconds_by_phase(it.stages.journal.records, seconds),
    }


def control_of(it: Run, start: Candidate) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The random control: one cut at random to the run's target, repaired as the real one, fine-tuned where `control: full`.

    None where none was asked for, or none can be made, which takes no finished search with it: then with a note that says why.
    """
    if it.config.control == "none":
        return None, ()
    it.emit({"event": "stage", "name": "random control"})
    seed = derive_seed(it.config.seed, "control")
    generator = np.random.default_rng(seed)
    groups = it.bench.graph.groups
    scores = {g.name: torch.from_numpy(generator.random(g.channels, dtype=np.float32)) for g in groups}
    analysis = Analysis(it.bench.graph, scores)
    tune: Phase | None = "training" if it.config.control == "full" else None
    reduce = it.target.reduce
    try:
        proposal = recorded_plan(
            it, "control/plan", lambda: propose(it.bench, start, analysis, reduce), base=start.number, reduce=reduce
        )
        made, _ = round_of(it, start, start, dataclasses.replace(proposal, tune=tune), "control", lambda: analysis)
    except (TargetError, CertificateError) as error:
        note = f"no random control was made: {error}"
        it.emit({"event": "warning", "text": note})
        return None, (note,)
    values = {stage: found.value for stage, found in made.stages.items() if stage != "before"}
    return {"criterion": "random", "size": made.size, **values, "after": values["after"] if tune else None}, ()


# ---------------------------------------------------------------- the end


def size_total(loaded: LoadedModel, chosen: Candidate, target: Target) -> float:
    """The size relative to the original network, where runs are chained; of MACs, unless the measure is params."""
    original = loaded.provenance.get("original")
    if original is None:
        return chosen.size
    whole = Cost(int(original["macs"]), int(original["params"]))
    measure: Measure = "params" if target.measure == "params" else "macs"
    return chosen.cost.of(measure) / whole.of(measure)


def save(it: Run, chosen: Candidate, result: Mapping[str, Any], out: Path) -> None:
    """Write the network, its recipe, the loader's own format, metrics and report and, last of all, `result.json`."""
    files.write_weights(out / files.WEIGHTS, chosen.model)
    # on disk a recipe is relative to the original class, also where runs are chained
    recipe = compose(it.loaded.recipe, chosen.recipe)
    write_json(out / files.RECIPE, recipe_to_dict(recipe))
    it.hook.prune_save_model(loaded=it.loaded, pruned=chosen.model, recipe=recipe, result=result, directory=out)
    leave_report(it, result, out)
    write_json(out / files.RESULT, result)
    it.emit({"event": "done", "result": result, "directory": str(out)})


def leave_report(it: Run, result: Mapping[str, Any], out: Path) -> None:
    """`metrics.csv` and `report.html`; a report that cannot be made is told in one line and takes no run with it."""
    write_text(out / METRICS, metrics_csv(read_run(out, result)))
    try:
        write_report(out, result)
    except RunDirectoryError:
        raise  # the disk is full: `--resume` writes it
    except ConfigError as error:
        it.emit({"event": "warning", "text": f"report.html was left out: {error}, then `prune report {out}`"})
    except Exception as error:  # days of training end here
        text = f"report.html was left out: {type(error).__name__}: {error}; everything else is written"
        it.emit({"event": "warning", "text": text})
