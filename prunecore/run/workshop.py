"""The candidates of a run: what others are cut from, found once and let go when many have followed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prunecore.measure import CostModel
from prunecore.planning import BlockCut, block_cuts
from prunecore.planning.limits import computed
from prunecore.run.rounds import MEASURED, Analysis, analyse, propose, trace
from prunecore.run.stages import Kept

if TYPE_CHECKING:
    from prunecore.run.rounds import Bench
    from prunecore.types import Candidate, DependencyGraph, Proposal

_HELD = 2  # candidates beside the network as loaded


class Workshop:
    """The candidates made so far, and the analyses of those that others were cut from (each made once, when asked for)."""

    def __init__(self, bench: Bench, start: Candidate) -> None:
        self.bench = bench
        self._candidates = {start.number: start}
        self._analyses: dict[int, Analysis] = {}
        self._graphs = {start.number: bench.graph}
        self._frozen: dict[int, Mapping[str, str]] = {start.number: {}}
        self.given_up: dict[str, str] = {}

    @property
    def candidates(self) -> int:
        """How many there are, the start included."""
        return len(self._candidates)

    def candidate(self, number: int) -> Candidate:
        return self._candidates[number]

    def graph(self, candidate: Candidate) -> DependencyGraph:
        """The dependency graph of `candidate`."""
        if candidate.number not in self._graphs:
            found = trace(self.bench.hook, candidate.model, self.bench.inputs)
            self._graphs[candidate.number] = dataclasses.replace(found, latency=self.bench.graph.latency)
        return self._graphs[candidate.number]

    def analysis(self, candidate: Candidate) -> Analysis:
        """The analysis of `candidate`; groups given up by the time that it was made are frozen in it, whenever this is asked."""
        if candidate.number not in self._analyses:
            self._analyses[candidate.number] = analyse(
                self.bench, candidate, self.graph(candidate), frozen=self._frozen[candidate.number]
            )
        return self._analyses[candidate.number]

    def analysed(self, candidate: Candidate) -> bool:
        """Whether its analysis is there."""
        return candidate.number in self._analyses

    def propose(self, candidate: Candidate, reduce: float) -> Proposal:
        """The exact plan that cuts `candidate` to a cumulative reduction."""
        return propose(self.bench, candidate, self.analysis(candidate), reduce)

    def block_cuts(self, candidate: Candidate, delta: float, saving: float | None) -> tuple[BlockCut, ...]:
        """For every block of `candidate` that can shrink, the cut that removes `delta` of it, or `saving` of the measure."""
        analysis = self.analysis(candidate)
        return block_cuts(
            analysis.graph,
            analysis.scores,
            self.bench.target,
            delta=delta,
            saving=saving,
            whole=self.whole(candidate),
            frozen=frozenset(analysis.frozen),
            widths=self.bench.widths,
        )

    def whole(self, candidate: Candidate) -> float:
        """What sizes that the graph gives of cuts of `candidate` count from: the measure of the network as loaded, or, where only a
        network itself shows that, what gives the candidate the size that was measured."""
        if self.bench.target.measure not in MEASURED:
            return self.bench.whole
        graph = self.graph(candidate)
        return CostModel(graph).cost({}).of(computed(graph, self.bench.target.measure)) / candidate.size

    def add(self, candidate: Candidate, frozen: Mapping[str, str]) -> Candidate:
        """Keep a new candidate, and what had to be given up for it."""
        self._candidates[candidate.number] = candidate
        self.given_up.update(frozen)
        self._frozen[candidate.number] = dict(self.given_up)
        self._let_go()
        return candidate

    def _let_go(self) -> None:
        """Of hundreds of candidates the memory holds the last few; what is asked of another is read and found again."""
        for number in [*self._candidates][1:-_HELD]:
            self._analyses.pop(number, None)
            self._graphs.pop(number, None)
            network = self._candidates[number].network
            if isinstance(network, Kept):
                network.let_go()
