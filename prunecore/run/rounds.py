"""One round: analyse a candidate, plan, cut, certify. A cut that fails its certificate is frozen and planned again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunecore.errors import CertificateError, ModelError, OutOfMemory, TargetError, listing
from prunecore.measure import CostModel, count, ptflops_cost
from prunecore.planning import Plan, plan, plan_least, plan_measured, reachable, remarks, with_remarks
from prunecore.planning.limits import computed
from prunecore.planning.measured import require_measured
from prunecore.planning.planner import LATENCY_TOLERANCE
from prunecore.scoring import score_all
from prunecore.surgery import certify, compose, copy_model
from prunecore.training import resolve_device
from prunecore.types import Calibration, Certificate, Cost, Proposal, Recipe, Unprunable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunecore.run.latency import Stopwatch
    from prunecore.types import Candidate, DependencyGraph, ExampleInputs, Measure, Target, Task

ATTEMPTS = 4
MEASURED = ("ptflops", "latency")  # what only a network itself shows
_IN_DOUBT = 0.1  # of the size: ptflops counts otherwise than MACs, which stand in for it
_CUT_FAULTS = (ModelError, RuntimeError, ValueError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True, eq=False)
class Bench:
    """What every round of a run needs and none of them changes.

    hook: pluggy's hook relay. graph: of the network as loaded (training changes values, not ties), whose widths
    `max_reduction` counts from. original, whole: its cost, and its measure by the target's convention. stopwatch: where that
    is latency; the graph then has tables.
    """

    hook: Any
    inputs: ExampleInputs
    target: Target
    graph: DependencyGraph
    original: Cost
    whole: float
    seed: int
    task: Task | None
    device: str
    stopwatch: Stopwatch | None = None

    @property
    def widths(self) -> Mapping[str, int]:
        return self.graph.widths


@dataclass(frozen=True, eq=False)
class Analysis:
    """A candidate's dependency graph and the saliency of its channels."""

    graph: DependencyGraph
    scores: Mapping[str, Tensor]
    images: int = 0
    frozen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cut:
    """A verified cut. recipe: relative to the network that was cut. frozen: groups given up, and why. latency: as measured,
    where that is the target."""

    model: nn.Module
    recipe: Recipe
    certificate: Certificate
    cost: Cost
    size: float
    frozen: Mapping[str, str]
    notes: tuple[str, ...] = ()
    latency: Mapping[str, Any] | None = None


def measured(model: nn.Module, inputs: ExampleInputs, cost: Cost, measure: Measure) -> float:
    """The target's measure of `model`, whose MACs and params by our own convention are `cost`."""
    if measure == "ptflops":
        return float(ptflops_cost(model, inputs).macs)
    return float(cost.of(measure))


def trace(hook: Any, model: nn.Module, inputs: ExampleInputs) -> DependencyGraph:
    """The dependency graph by the engine in use; ModelError where no engine is loaded."""
    rules = tuple(rule for found in hook.prune_op_rules() for rule in found)
    graph: DependencyGraph | None = hook.prune_trace(model=model, inputs=inputs, rules=rules)
    if graph is None:
        raise ModelError("no graph engine traced the network; choose one with --graph")
    return graph


def analyse(
    bench: Bench, candidate: Candidate, graph: DependencyGraph, *, frozen: Mapping[str, str] | None = None
) -> Analysis:
    """Make sure that the target is in reach of `candidate`, whose graph this is, then calibrate and score."""
    if bench.target.measure != "ptflops":
        reachable(graph, bench.target, original=bench.original, widths=bench.widths).require(bench.target.reduce)
    evidence = calibrate(bench, candidate, graph)
    scores = score_all(graph, candidate.model, bench.hook, evidence, bench.seed)
    return Analysis(graph, scores, evidence.images, frozen or {})


def calibrate(bench: Bench, candidate: Candidate, graph: DependencyGraph) -> Calibration:
    """What the criterion gathers from data, on the CPU, where weights are scored. Most criteria gather nothing."""
    if not bench.hook.prune_calibrate.get_hookimpls():
        return Calibration()
    subject = copy_model(candidate.model).to(resolve_device(bench.device))
    found: Calibration | None = bench.hook.prune_calibrate(
        model=subject, graph=graph, inputs=bench.inputs, task=bench.task, seed=bench.seed
    )
    calibration = found or Calibration()
    tensors = {name: value.cpu() for name, value in calibration.tensors.items()}
    sites = {site: value.cpu() for site, value in calibration.sites.items()}
    return dataclasses.replace(calibration, tensors=tensors, sites=sites)


def propose(
    bench: Bench,
    candidate: Candidate,
    analysis: Analysis,
    reduce: float,
) -> Proposal:
    """The exact plan for one cumulative reduction.

    Where groups that were given up after a failed certificate put it out of reach in a later round, all that may still go,
    with a note: what was made before then is not lost. Raises TargetError.
    """
    target = dataclasses.replace(bench.target, reduce=reduce)
    try:
        planned = _planned(bench, candidate, analysis, target)
    except TargetError:
        if not candidate.number or not analysis.frozen:
            raise
        planned = _least(bench, analysis, target)
    return dataclasses.replace(planned.proposal, base=candidate.number, reduce=reduce, notes=planned.notes)


def _planned(bench: Bench, candidate: Candidate, analysis: Analysis, target: Target) -> Plan:
    frozen = frozenset(analysis.frozen)
    if target.measure not in MEASURED:
        return plan(
            analysis.graph, analysis.scores, target, original=bench.original, frozen=frozen, widths=bench.widths
        )

    return plan_measured(
        analysis.graph,
        analysis.scores,
        target,
        _sizes_of(bench, candidate.model, analysis.graph),
        original=bench.original,
        frozen=frozen,
        widths=bench.widths,
    )


def _sizes_of(bench: Bench, model: nn.Module, graph: DependencyGraph) -> Callable[[Proposal], float]:
    """Cuts `model` as a proposal says, and measures what is left of the target's measure."""

    def size_of(proposal: Proposal) -> float:
        made, _ = bench.hook.prune_resize(model=model, graph=graph, proposal=proposal)
        if bench.stopwatch is not None:
            return bench.stopwatch.size(made)
        return measured(made, bench.inputs, bench.original, bench.target.measure) / bench.whole

    return size_of


def _least(bench: Bench, analysis: Analysis, target: Target) -> Plan:
    """All that may go, by what the graph computes."""
    frozen, graph = frozenset(analysis.frozen), analysis.graph
    inner = dataclasses.replace(target, measure=computed(graph, target.measure))
    found = plan_least(graph, analysis.scores, inner, original=bench.original, frozen=frozen, widths=bench.widths)
    note = (
        f"{target.reduce:g} of {target.measure} is out of reach without {listing(sorted(frozen))}, given up on the way"
    )
    return dataclasses.replace(found, notes=(*found.notes, note))


def cut(bench: Bench, candidate: Candidate, analysis: Analysis, proposal: Proposal) -> Cut:
    """Carry out `proposal` and prove it; freeze what fails, plan again to the same target, give up after a few times.

    Raises CertificateError with the module where the networks first differ.
    """
    frozen: Mapping[str, str] = dict(analysis.frozen)
    for _ in range(ATTEMPTS):
        attempt = _attempt(bench, candidate, analysis, proposal)
        if isinstance(attempt, Cut):
            varies = analysis.graph.varies
            note = () if varies is None else (f"{_VARIES} ({varies})",)
            attempt = dataclasses.replace(attempt, frozen=frozen, notes=(*proposal.notes, *note))
            return attempt if bench.stopwatch is None else _timed(bench.stopwatch, attempt, proposal.reduce)
        culprits = _culprits(bench, candidate, analysis, proposal)
        if not culprits:
            break
        frozen = {**frozen, **culprits}
        analysis = Analysis(analysis.graph, analysis.scores, analysis.images, frozen)
        proposal = propose(bench, candidate, analysis, proposal.reduce)
    raise CertificateError(
        f"the cut network does not compute what the masked one does: {attempt}; name the module under skip"
    )


def uncut(candidate: Candidate, proposal: Proposal) -> Cut:
    """The candidate as it is, as a cut that removes nothing; its certificate is that of the cut that made it."""
    proof = candidate.certificate or Certificate(False, 0.0, (), "float64", ("nothing was cut",))
    return Cut(
        candidate.model,
        Recipe(),
        proof,
        candidate.cost,
        candidate.size,
        {},
        proposal.notes or candidate.notes,
        candidate.facts.get("latency"),
    )


def _attempt(bench: Bench, candidate: Candidate, analysis: Analysis, proposal: Proposal) -> Cut | str:
    """The verified cut, or in one line why there is none."""
    try:
        model, recipe = bench.hook.prune_resize(model=candidate.model, graph=analysis.graph, proposal=proposal)
        certificate = certify(candidate.model, model, recipe, bench.inputs, seed=bench.seed)
    except (*_CUT_FAULTS, MemoryError) as error:
        if (shortage := OutOfMemory.of(error, "cut the network")) is not None:
            raise shortage from error
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not certificate.verified:
        return certificate.notes[-1] if certificate.notes else f"outputs differ by {certificate.max_abs_error:g}"
    cost = _cost(bench, model, analysis.graph, proposal)
    size = measured(model, bench.inputs, cost, bench.target.measure) / bench.whole
    return Cut(model, recipe, certificate, cost, size, {})


def _timed(watch: Stopwatch, made: Cut, reduce: float) -> Cut:
    """The cut with its size as measured; until then it is that of the tables."""
    found = watch.check(made.model, made.size)
    ratio, wanted = found["ratio"], 1.0 - reduce
    notes = made.notes
    if abs(ratio["median"] - wanted) > LATENCY_TOLERANCE:
        interval = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        notes = (*notes, f"latency: measured {interval} of the original in the end, {wanted:.3f} asked for")
    return dataclasses.replace(made, size=ratio["median"], latency=found, notes=notes)


_VARIES = "what it costs depends on values; it is given for as many as the uncut network finds in the example inputs"


def _cost(bench: Bench, model: nn.Module, graph: DependencyGraph, proposal: Proposal) -> Cost:
    """Counted on the cut network; by the cost model where that would count how many boxes another network finds."""
    if graph.varies is None and graph.latency is None:
        return count(model, bench.inputs)
    planned = CostModel(graph).cost({name: len(index) for name, index in proposal.kept.items()})
    return planned if graph.varies is not None else dataclasses.replace(planned, **_counted(model, bench.inputs))


def _counted(model: nn.Module, inputs: ExampleInputs) -> dict[str, int]:
    found = count(model, inputs)
    return {"macs": found.macs, "params": found.params}


def _culprits(bench: Bench, candidate: Candidate, analysis: Analysis, proposal: Proposal) -> dict[str, str]:
    """Groups whose part of the proposal fails alone (linked groups are tried together), with the reason."""
    found: dict[str, str] = {}
    for names in _together(analysis.graph, proposal):
        alone = Proposal({n: proposal.kept[n] for n in names}, proposal.base, proposal.reduce)
        outcome = _attempt(bench, candidate, analysis, alone)
        if isinstance(outcome, str):
            found.update(dict.fromkeys(names, outcome))
    return found


def _together(graph: DependencyGraph, proposal: Proposal) -> list[tuple[str, ...]]:
    """Names of the groups that the proposal cuts; linked ones in one tuple."""
    sets: dict[str, frozenset[str]] = {name: frozenset([name]) for name in proposal.kept}
    for link in graph.links:
        merged = frozenset().union(*(sets[n] for n in link.groups if n in sets))
        sets = {n: (merged if n in merged else s) for n, s in sets.items()}
    return [tuple(sorted(s)) for s in dict.fromkeys(sets.values())]


def bench_of(
    hook: Any,
    model: nn.Module,
    inputs: ExampleInputs,
    target: Target,
    *,
    seed: int,
    task: Task | None,
    device: str = "cpu",
) -> Bench:
    """The bench of a run that starts from `model`; TargetError where the target is out of reach."""
    graph, original = trace(hook, model, inputs), count(model, inputs)
    stands = "macs" if target.measure == "latency" else target.measure  # until there are tables
    whole = measured(model, inputs, original, stands)
    if not whole:
        raise ModelError(f"the network has no {stands} to remove: no convolution, linear or recurrent layer was found")
    bench = Bench(hook, inputs, target, graph, original, whole, seed, task, device)
    _check_reach(bench, model)
    return bench


def _check_reach(bench: Bench, model: nn.Module) -> None:
    """TargetError where the target is out of reach; of latency its limits are checked, the range is known when there are tables."""
    target, graph = bench.target, bench.graph
    reach = reachable(graph, target)
    if target.measure not in MEASURED:
        reach.require(target.reduce)
    elif target.measure == "ptflops" and reach.smallest > 1.0 - target.reduce - _IN_DOUBT:
        with suppress(*_CUT_FAULTS):  # what cannot be cut so far is found when its certificate fails
            require_measured(graph, target, _sizes_of(bench, model, graph))


def apply(candidate: Candidate, made: Cut) -> Recipe:
    """The recipe relative to the network as loaded."""
    return compose(candidate.recipe, made.recipe)


def unprunable_of(graph: DependencyGraph, frozen: Mapping[str, str]) -> tuple[Unprunable, ...]:
    """What stays whole: found by the engine, and given up after a failed certificate."""
    return (*graph.unprunable, *(Unprunable(name, reason) for name, reason in frozen.items()))


def notes_of(bench: Bench, chosen: Candidate, frozen: Iterable[str]) -> tuple[str, ...]:
    """What stood in the way: as the plan of the chosen network says it; of a cut that a search made itself, as a plan would.

    frozen: names of groups given up after a failed certificate.
    """
    found = remarks(bench.graph, bench.target, chosen.size, frozen=frozenset(frozen), widths=bench.widths)
    return with_remarks(chosen.notes, found)
