"""Proposals -> candidates: steps are carried out here, one after the other; trials go to the workers, all at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from prunecore.errors import ConfigError, PluginError, listing, nearest
from prunecore.execution import Job, Outcome, Setup
from prunecore.measure import CostModel
from prunecore.planning import BlockCut
from prunecore.report.progress import marks_of, time_left, time_to
from prunecore.run.context import Run
from prunecore.run.directory import state_of
from prunecore.run.rounds import Analysis
from prunecore.run.steps import round_of
from prunecore.run.trials import TrialJob, TrialResult, build_state, seed_of, try_proposal
from prunecore.run.workshop import Workshop
from prunecore.surgery.cut import are_channels
from prunecore.types import Candidate, Cost, Indices, Phase, Proposal, Recipe, Score, Width

if TYPE_CHECKING:
    from torch import Tensor

    from prunecore.execution import Session

WORKERS_OR_LAUNCHER = (
    "this search starts workers of its own (executor.workers); start it without a launcher of processes"
)


class Candidates:
    """What a search asks for: plans, and the candidates made of its proposals. A context manager, which ends the workers."""

    def __init__(self, it: Run, start: Candidate, rounds: int | None = None) -> None:
        """rounds: how many there will be; None: the search itself decides."""
        self._it = it
        self._rounds = rounds
        self._start = start
        self.workshop = Workshop(it.bench, start)
        self._parents = {start.number: start.number}
        self._told = {start.number}
        self._open = ExitStack()
        self._session: Session | None = None
        self._costs: dict[int, Cost] = {}
        self._asked: dict[int, Proposal] = {}
        self._since = 0.0
        self._through = 0
        self._told_short = False
        self.trials: list[Candidate] = []

    def __enter__(self) -> Candidates:
        return self

    def __exit__(self, *fault: object) -> None:
        self._open.close()

    def plan(self, candidate: Candidate, reduce: float) -> Proposal:
        """The exact plan for a cumulative reduction; the record is read back on resume."""

        def compute() -> Proposal:
            self._tell_analysis(candidate)
            return self.workshop.propose(candidate, reduce)

        name = f"plan-{candidate.number}-{reduce:.6f}"
        return recorded_plan(self._it, name, compute, base=candidate.number, reduce=reduce)

    def block_cuts(self, candidate: Candidate, delta: float, saving: float | None) -> tuple[BlockCut, ...]:
        """For every block of `candidate` that can shrink, the cut that removes `delta` of it, or `saving` of the measure; read
        back on resume."""

        def compute() -> dict[str, Any]:
            self._tell_analysis(candidate)
            cuts = self.workshop.block_cuts(candidate, delta, saving)
            return {"cuts": [{**dataclasses.asdict(c), "kept": _lists(c.kept)} for c in cuts]}

        asked = f"{delta:.6f}" if saving is None else f"saving-{saving:.6f}"
        found = self._it.stages.value(f"blocks-{candidate.number}-{asked}", compute)["cuts"]
        return tuple(BlockCut(**{**c, "kept": _indices(c["kept"])}) for c in found)

    def _tell_analysis(self, candidate: Candidate) -> None:
        if not self.workshop.analysed(candidate):
            self._it.emit({"event": "stage", "name": "analysis"})

    def realise(self, proposals: Sequence[Proposal], number: int) -> list[Candidate]:
        """The candidates of `proposals`, the first of which has that number."""
        numbered = list(enumerate(proposals, number))
        tried = self._tried([(n, p) for n, p in numbered if p.trial])
        return [tried[n] if p.trial else self._step(n, p) for n, p in numbered]

    def accept(self, candidate: Candidate) -> None:
        """Tell, once, of a candidate that others are cut from, or that was chosen."""
        if candidate.number in self._told and candidate.network is not None:
            return
        model = candidate.model  # raises for a trial
        self._told.add(candidate.number)
        base = self.workshop.candidate(self._parents[candidate.number])
        self._it.emit(accepted(base, candidate) | {"model": model, "directory": str(self._it.stages.directory)})

    def _step(self, number: int, proposal: Proposal) -> Candidate:
        base = self._base_of(proposal)
        self.accept(base)
        name, analysis = f"candidate-{number}", self._analysis_of(base)
        if self._it.stages.journal.find("value", f"{name}/search") is None:
            self._check(base, proposal)
            self._tell_progress()
        made, frozen = round_of(self._it, self._start, base, proposal, name, analysis)
        self._parents[number] = proposal.base
        return self.workshop.add(dataclasses.replace(made, number=number), frozen)

    def _check(self, base: Candidate, proposal: Proposal) -> None:
        """PluginError for what no plan would ask: a search of a plugin made it. What is recorded was found good before."""
        if proposal.tune is not None and proposal.tune not in get_args(Phase):
            raise PluginError(
                f"the search proposes tune={proposal.tune!r}{nearest(proposal.tune, get_args(Phase))}; expected None or one of "
                f"{listing(get_args(Phase))}"
            )
        widths = self.workshop.graph(base).widths if proposal.kept else {}
        for group, kept in proposal.kept.items():
            if group not in widths:
                raise PluginError(f"the search cuts group {group!r}{nearest(group, widths)}, which is not there")
            index = np.asarray(kept)
            if not are_channels(index, widths[group]):
                raise PluginError(
                    f"the search keeps channels {listing(map(str, index.ravel()), most=6) or 'none'} of group {group!r}; expected at least "
                    f"one, ascending within 0 … {widths[group] - 1}"
                )

    def _base_of(self, proposal: Proposal) -> Candidate:
        if proposal.base not in self._parents:
            raise PluginError(
                f"the search cuts from candidate {proposal.base}, which is a trial or not there; cut from one of "
                f"{listing(map(str, self._parents))}"
            )
        return self.workshop.candidate(proposal.base)

    def _analysis_of(self, base: Candidate) -> Callable[[], Analysis]:
        return lambda: self.workshop.analysis(base)

    def _tell_progress(self) -> None:
        """How far the run is, once a round: where one begins that is not recorded, also in a run that goes on."""
        marks = marks_of(self._it.stages.journal.records)
        if len(marks) == self._through:
            return
        self._through = len(marks)
        rounds, goal = self._rounds, 1.0 - self._it.target.reduce
        left = time_to(marks, goal) if rounds is None else time_left([mark.at for mark in marks], rounds)
        left = left and left.after(self._it.stages.seconds - marks[-1].at)
        known = {} if left is None else dataclasses.asdict(left)
        facts = {"round": len(marks), "rounds": rounds, "size": marks[-1].size, "goal": goal}
        self._it.emit({"event": "progress", **facts, **known})

    # ---------------------------------------------------------------- trials

    def _tried(self, proposals: Sequence[tuple[int, Proposal]]) -> dict[int, Candidate]:
        journal = self._it.stages.journal
        records = {n: journal.find("value", f"trial-{n}") for n, _ in proposals}
        missing = [(n, p) for n, p in proposals if records[n] is None]
        if missing:
            self._tell_progress()
            self._tell_short([p for _, p in missing])
            self._it.emit({"event": "trials", "count": len(missing)})
            # one copy for all trials that are cut from the same candidate
            weights: dict[int, Mapping[str, Tensor]] = {}
            self._since = time.monotonic()
            self._workers().run([self._job(n, p, weights) for n, p in missing], on_outcome=self._record)
            records |= {n: journal.find("value", f"trial-{n}") for n, _ in missing}
        found = {n: self._candidate(n, records[n] or {}) for n, p in proposals}
        self.trials += found.values()
        return found

    def _tell_short(self, proposals: Sequence[Proposal]) -> None:
        """Once, where trials ask for more images than the search split has."""
        asked = max((p.images for p in proposals if p.images is not None), default=0)
        there = len(self._it.search_data)
        if asked > there and not self._told_short:
            self._told_short = True
            text = f"trials are to be measured on {asked} images, the search split has {there}: all of it is used"
            self._it.emit({"event": "warning", "text": f"{text}; search_fraction makes it larger"})

    def _workers(self) -> Session:
        if self._session is None:
            if self._it.world.size > 1:
                raise ConfigError(WORKERS_OR_LAUNCHER)
            executor = self._it.hook.prune_executor()
            if executor is None:
                raise PluginError("no executor gave workers; choose one by executor.kind")
            setup = Setup(build_state, try_proposal, (self._it.parsed,), seed=self._it.config.seed)
            self._session = self._open.enter_context(executor.open(setup, self._it.emit))
        return self._session

    def _job(self, number: int, proposal: Proposal, weights: dict[int, Mapping[str, Tensor]]) -> Job:
        base = self._base_of(proposal)
        self._check(base, proposal)
        self.accept(base)
        teachers = [self._start] if proposal.tune is not None and self._taught() else []
        for candidate in (base, *teachers):
            if candidate.number not in weights:
                weights[candidate.number] = state_of(candidate.model)
        graph = self.workshop.graph(base)
        job = TrialJob(
            proposal,
            base.recipe,
            weights[base.number],
            graph,
            weights[self._start.number] if teachers else None,
        )
        self._asked[number] = proposal
        self._costs[number] = CostModel(graph).cost({name: len(index) for name, index in proposal.kept.items()})
        return Job(number, job, seed_of(self._it.config.seed, proposal))

    def _taught(self) -> bool:
        """Whether a fine-tune may look at the unpruned network: the run distils, or a plugin trains."""
        trainers = self._it.hook.prune_fine_tune.get_hookimpls()
        return self._it.config.distillation is not None or len(trainers) > 1

    def _record(self, outcome: Outcome) -> None:
        """What became of a trial, also where time or chance decided, is kept as it was."""
        asked, cost = self._asked[outcome.job], self._costs[outcome.job]
        facts: dict[str, Any] = {"attempts": outcome.attempts, "seconds": outcome.seconds}
        facts |= {
            "base": asked.base,
            "tune": asked.tune,
            "size": self._size(cost, asked.base),
            "cost": dataclasses.asdict(cost),
        }
        facts |= {"widths": {name: len(index) for name, index in asked.kept.items()}}
        result: TrialResult | None = outcome.value
        if result is not None:
            facts |= dataclasses.asdict(result)
        elif outcome.fault is not None:
            facts |= {"fault": outcome.fault.kind, "message": outcome.fault.message}
        # workers share the time: each trial has what passed since the one before it came back
        self._it.stages.value(f"trial-{outcome.job}", lambda: facts, began=self._since)
        self._since = time.monotonic()
        self._it.emit({"event": "trial", "number": outcome.job, **facts})

    def _candidate(self, number: int, record: Mapping[str, Any]) -> Candidate:
        facts = record["data"]
        cost = Cost(**facts["cost"])
        score = Score(**facts["score"]) if "score" in facts else None
        notes = (f"{facts['fault']}: {facts['message']}",) if "fault" in facts else ()
        return Candidate(number, None, Recipe(), cost, facts["size"], score, notes=notes, facts=facts)

    def _size(self, cost: Cost, base: int) -> float:
        return cost.of(self._it.target.measure) / self.workshop.whole(self.workshop.candidate(base))


def recorded_plan(it: Run, name: str, compute: Callable[[], Proposal], *, base: int, reduce: float) -> Proposal:
    """The plan that `compute` makes, recorded: it may rest on measurements, which come out different each time."""

    def plain() -> dict[str, Any]:
        made = compute()
        return {"kept": _lists(made.kept), "notes": list(made.notes)}

    found = it.stages.value(name, plain)
    return Proposal(_indices(found["kept"]), base, reduce, notes=tuple(found["notes"]))


def _lists(kept: Mapping[str, Indices]) -> dict[str, list[int]]:
    return {name: index.tolist() for name, index in kept.items()}


def _indices(kept: Mapping[str, Sequence[int]]) -> dict[str, Indices]:
    return {name: np.asarray(index, dtype=np.int64) for name, index in kept.items()}


def accepted(base: Candidate, candidate: Candidate) -> dict[str, Any]:
    """The event of a candidate that the search goes on from. widths: of the groups that became narrower than in `base`."""
    before = {w.group: w.after for w in base.recipe.widths}
    widths = [Width(w.group, before.get(w.group, w.before), w.after) for w in candidate.recipe.widths]
    return {
        "event": "accepted",
        "number": candidate.number,
        "size": candidate.size,
        "metric": candidate.stages["after"].value,
        "widths": [dataclasses.asdict(w) for w in widths if w.before != w.after],
    }
