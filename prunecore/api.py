"""The Python API: `prune`, `trace`, `load` (`apply_recipe` lives in `prunecore.surgery`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecore.config.reader import Parsed, criterion_of, latency_of, parse, read_yaml, target_of
from prunecore.config.schema import DEFAULT_GRAPH
from prunecore.errors import ConfigError, ModelError, RunDirectoryError
from prunecore.registry import Choice, build_manager, find
from prunecore.run import directory as files
from prunecore.run.admission import admit
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.latency import described, with_tables
from prunecore.run.loading import check_forward, load_model
from prunecore.run.rounds import apply, bench_of, cut, notes_of, unprunable_of
from prunecore.run.rounds import trace as trace_by
from prunecore.run.search import DefaultSearch, Problem, check_schedule, drive
from prunecore.run.workshop import Workshop
from prunecore.surgery import apply_recipe, copy_model, load_recipe
from prunecore.types import (
    Candidate,
    Certificate,
    Cost,
    DependencyGraph,
    ExampleInputs,
    LoadedModel,
    Measure,
    Proposal,
    Recipe,
    Scope,
    Task,
    Unprunable,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network and the record of the cut. size: what is left of the measure. notes: what stood in the plan's way.
    latency: where it is the measure, what was planned and measured, as in `result.json`."""

    model: nn.Module
    recipe: Recipe
    certificate: Certificate
    before: Cost
    after: Cost
    size: float
    unprunable: tuple[Unprunable, ...]
    notes: tuple[str, ...] = ()
    latency: Mapping[str, Any] | None = None


def as_inputs(example_inputs: Any) -> ExampleInputs:
    """A tensor, a tuple or list of positional inputs, a mapping of keyword inputs, or `ExampleInputs`."""
    if isinstance(example_inputs, ExampleInputs):
        return example_inputs
    if isinstance(example_inputs, Mapping):
        return ExampleInputs((), dict(example_inputs))
    if isinstance(example_inputs, tuple | list):
        return ExampleInputs(tuple(example_inputs))
    return ExampleInputs((example_inputs,))


def prune(
    model: nn.Module,
    example_inputs: Any,
    algo: str = "l2norm",
    reduce: float = 0.5,
    measure: Measure = "macs",
    multiple_of: int | None = None,
    skip: Sequence[str] = (),
    criterion: str | None = None,
    scope: Scope = "global",
    task: Task | None = None,
    seed: int = 0,
    *,
    graph: str = DEFAULT_GRAPH,
    options: Mapping[str, Any] | None = None,
    latency: Mapping[str, Any] | None = None,
    **target: Any,
) -> Pruned:
    """Cut `reduce` of the MACs (or params, ptflops' count, latency) out of a copy of `model`; nothing is trained.

    The caller's model, its mode, hooks and flags stay as they were. What comes out is the network itself, without a
    `torch.compile` or data-parallel wrapper around it. `task` is needed by criteria that look at data
    (`taylor`). `options`: of the algorithm; `target`: further fields of `prunecore.Target`, such as `min_channels=8`;
    `latency`: how that is measured, where it is the measure (`threads=1`, `batch`, `device`, `seconds` for the tables).
    Raises ConfigError (bad arguments), ModelError (a network that cannot be followed), ForwardError (its own code failed),
    TargetError (out of reach), CertificateError (no verified cut was found).
    """
    settings = target_of(
        {
            "reduce": reduce,
            "measure": measure,
            "multiple_of": multiple_of,
            "skip": tuple(skip),
            "scope": scope,
            **target,
        }
    ).target()
    if latency is not None and settings.measure != "latency":
        raise ConfigError(f"latency: got settings with measure {measure!r}; leave them out, or give measure='latency'")
    manager = build_manager(
        _choices(algo, criterion, graph, options or {}), defaults=(DefaultSearch(), DefaultSurgery())
    )
    inputs = as_inputs(example_inputs)
    model = admit(model)
    check_forward(model, inputs)
    own = copy_model(model)  # a forward, too, may change what it runs on
    bench = bench_of(manager.hook, own, inputs, settings, seed=seed, task=task)
    if settings.measure == "latency":
        bench = with_tables(bench, own, latency_of(latency or {}))
    start = Candidate(0, own, Recipe(), bench.original, 1.0)
    schedule = check_schedule(manager.hook.prune_schedule(target=settings), settings)
    workshop = Workshop(bench, start)

    def one(proposal: Proposal, number: int) -> Candidate:
        if proposal.trial:
            raise ConfigError(
                f"{algo} tries proposals out on data; use `prune run`, or give reduce and a criterion here"
            )
        base = workshop.candidate(proposal.base)
        made = cut(bench, base, workshop.analysis(base), proposal)
        found = Candidate(
            number, made.model, apply(base, made), made.cost, made.size, None, made.certificate, notes=made.notes
        )
        found = dataclasses.replace(found, facts={"latency": made.latency} if made.latency else {})
        return workshop.add(found, made.frozen)

    def realise(proposals: Sequence[Proposal], number: int) -> list[Candidate]:
        return [one(proposal, number + offset) for offset, proposal in enumerate(proposals)]

    problem = Problem(start, settings, schedule, seed, workshop.propose, workshop.block_cuts)
    best = drive(manager.hook.prune_search(problem=problem), realise)
    if best.certificate is None:
        raise ConfigError("the search chose the network as it was; nothing was cut")
    unprunable = unprunable_of(bench.graph, workshop.given_up)
    return Pruned(
        best.model,
        best.recipe,
        best.certificate,
        bench.original,
        best.cost,
        best.size,
        unprunable,
        notes_of(bench, best, workshop.given_up),
        described(best.facts.get("latency"), bench.graph.latency),
    )


def trace(model: nn.Module, example_inputs: Any, *, graph: str = DEFAULT_GRAPH) -> DependencyGraph:
    """The channel groups of `model` and its cost model."""
    inputs = as_inputs(example_inputs)
    model = admit(model, values=False)
    check_forward(model, inputs)
    hook = build_manager([_engine(graph)]).hook
    return trace_by(hook, copy_model(model), inputs)


def load(run_dir: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The pruned network of a run, in eval mode.

    model: a fresh network of the original class; by default it is built again as the run's own `config.yaml` says.
    """
    directory = Path(run_dir)
    if not (directory / files.RECIPE).is_file():
        raise RunDirectoryError(f"{directory}: no {files.RECIPE} there; give the directory of a finished run")
    fresh = model if model is not None else original_of(load_original(directory))
    pruned = apply_recipe(fresh, load_recipe(directory / files.RECIPE))
    try:
        pruned.load_state_dict(files.read_weights(directory / files.WEIGHTS))
    except RuntimeError as error:
        raise ModelError(
            f"{directory}: the weights do not fit the network: {' '.join(str(error).split())[:300]}"
        ) from error
    return pruned.eval()


def parsed_of(run_dir: Path) -> Parsed:
    """The configuration that a run was started with."""
    return parse(read_yaml(run_dir / files.CONFIG))


def load_original(run_dir: Path) -> LoadedModel:
    """The network that a run started from, by its own loader."""
    parsed = parsed_of(run_dir)
    return load_by(next(c for c in parsed.choices if c.role == "loader"), seed=parsed.config.seed)


def original_of(loaded: LoadedModel) -> nn.Module:
    """A network of the original class, to which recipes on disk are relative."""
    return loaded.rebuild() if loaded.rebuild is not None else loaded.model


def load_by(choice: Choice, *, seed: int = 0) -> LoadedModel:
    """The network that one loader gives, built as a run of that seed builds it."""
    return load_model(build_manager([choice]).hook, choice.name, seed=seed)


def _choices(algo: str, criterion: str | None, graph: str, options: Mapping[str, Any]) -> list[Choice]:
    chosen = find("algorithm", algo).name
    choices = [_engine(graph), Choice("algorithm", chosen, options, algo)]
    used = criterion_of(chosen, criterion)
    return choices if used == chosen else [*choices, Choice("algorithm", used, {}, "criterion")]


def _engine(name: str) -> Choice:
    return Choice("graph", find("graph", name).name, {}, "graph")
