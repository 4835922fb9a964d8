"""A round: op rules reach the engine; a cut that fails its certificate is frozen and planned again."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from prunecore.errors import OutOfMemory, PrunecoreError, TargetError
from prunecore.hookspecs import hookimpl
from prunecore.measure import CostModel, count
from prunecore.registry import Choice, build_manager
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.rounds import Bench, analyse, bench_of, cut, propose, trace, uncut, unprunable_of
from prunecore.run.steps import told_why
from prunecore.run.workshop import Workshop
from prunecore.types import Candidate, DependencyGraph, ExampleInputs, Proposal, Recipe, Target

INPUTS = ExampleInputs((torch.zeros(1, 3, 16, 16),))
CHOICES = [Choice("graph", "labels", {}, "graph"), Choice("algorithm", "l2norm", {}, "algo")]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    widths = (3, 12, 16, 12, 4)
    return nn.Sequential(*[nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)])


class Wrong:
    """The graph of the real engine with the consumers of some groups turned round."""

    def __init__(self, wrong: set[str]) -> None:
        self.wrong = wrong

    @hookimpl(wrapper=True)
    def prune_trace(self, model: nn.Module, inputs: ExampleInputs) -> Any:
        graph: DependencyGraph = yield
        groups = []
        for group in graph.groups:
            members = tuple(
                dataclasses.replace(m, index=m.index[::-1].copy())
                if group.name in self.wrong and m.role == "consumer"
                else m
                for m in group.members
            )
            groups.append(dataclasses.replace(group, members=members))
        return dataclasses.replace(graph, groups=tuple(groups))


def cut_with(wrong: set[str], reduce: float) -> tuple[Any, DependencyGraph]:
    manager = build_manager(CHOICES, defaults=(DefaultSurgery(),))
    manager.register(Wrong(wrong))
    model = network()
    bench = bench_of(manager.hook, model, INPUTS, Target(reduce), seed=0, task=None)
    start = Candidate(0, model, Recipe(), bench.original, 1.0)
    analysis = analyse(bench, start, bench.graph)
    return cut(bench, start, analysis, propose(bench, start, analysis, reduce)), analysis.graph


def test_a_group_that_fails_its_certificate_is_frozen_and_the_target_is_hit_without_it() -> None:
    made, graph = cut_with({"1"}, 0.5)
    assert made.certificate.verified
    assert list(made.frozen) == ["1"]
    assert made.model[1].out_channels == 16
    assert made.size == made.cost.macs / count(network(), INPUTS).macs == pytest.approx(0.5, abs=0.03)
    assert [u.module for u in unprunable_of(graph, made.frozen)] == ["3", "1"]


def test_without_a_verified_cut_there_is_none() -> None:
    with pytest.raises(PrunecoreError, match=r"out of reach|does not compute"):
        cut_with({"0", "1", "2"}, 0.5)


def test_op_rules_of_plugins_reach_the_engine() -> None:
    class Rules:
        @hookimpl
        def prune_op_rules(self) -> list[str]:
            return ["mine"]

    class Engine:
        @hookimpl(tryfirst=True)
        def prune_trace(self, model: nn.Module, inputs: ExampleInputs, rules: Any) -> Any:
            return rules

    manager = build_manager([])
    manager.register(Rules())
    manager.register(Engine())
    assert trace(manager.hook, network(), INPUTS) == ("mine",)


class Hungry:
    """Surgery on a machine that has too little memory."""

    @hookimpl(tryfirst=True)
    def prune_resize(self) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2000000000 bytes")


def test_too_little_memory_ends_the_run_and_freezes_nothing() -> None:
    manager = build_manager(CHOICES, defaults=(DefaultSurgery(),))
    manager.register(Hungry())
    bench = bench_of(manager.hook, network(), INPUTS, Target(0.5), seed=0, task=None)
    start = Candidate(0, network(), Recipe(), bench.original, 1.0)
    analysis = analyse(bench, start, bench.graph)
    with pytest.raises(OutOfMemory, match="not enough memory to cut the network: DefaultCPUAllocator"):
        cut(bench, start, analysis, propose(bench, start, analysis, 0.5))


def test_what_is_given_up_later_changes_no_earlier_candidate_whenever_it_is_looked_at() -> None:
    """A resumed run reads cuts back before it looks at the candidates that they were made of."""
    manager = build_manager(CHOICES, defaults=(DefaultSurgery(),))
    bench = bench_of(manager.hook, network(), INPUTS, Target(0.5), seed=0, task=None)
    start = Candidate(0, network(), Recipe(), bench.original, 1.0)
    workshop = Workshop(bench, start)
    later = workshop.add(dataclasses.replace(start, number=1), {"1": "failed"})
    assert dict(workshop.analysis(start).frozen) == {}
    assert dict(workshop.analysis(later).frozen) == {"1": "failed"}
    assert workshop.given_up == {"1": "failed"}


def test_block_cuts_of_what_only_a_network_shows_count_from_the_size_that_it_has() -> None:
    """ptflops counts more than our MACs, which stand in for it: the uncut network is of size 1 all the same."""
    manager = build_manager(CHOICES, defaults=(DefaultSurgery(),))
    bench = bench_of(manager.hook, network(), INPUTS, Target(0.5, "ptflops"), seed=0, task=None)
    assert bench.whole > bench.original.macs
    start = Candidate(0, network(), Recipe(), bench.original, 1.0)
    first = Workshop(bench, start).block_cuts(start, 0.25, None)[0]
    kept = {name: len(index) for name, index in first.kept.items()}
    assert kept == {"0": 9}
    assert first.size == CostModel(bench.graph).cost(kept).macs / bench.original.macs


def bench_and_start(reduce: float) -> tuple[Bench, Candidate]:
    manager = build_manager(CHOICES, defaults=(DefaultSurgery(),))
    bench = bench_of(manager.hook, network(), INPUTS, Target(reduce), seed=0, task=None)
    return bench, Candidate(0, network(), Recipe(), bench.original, 1.0)


def test_what_is_given_up_on_the_way_leaves_what_may_still_go() -> None:
    """In a later round; nothing is lost where the first one is refused."""
    bench, start = bench_and_start(reduce=0.9)
    analysis = analyse(bench, start, bench.graph, frozen={"0": "failed", "1": "failed"})
    with pytest.raises(TargetError, match="out of reach"):
        propose(bench, start, analysis, 0.9)
    later = propose(bench, dataclasses.replace(start, number=1), analysis, 0.9)
    assert {name: len(kept) for name, kept in later.kept.items()} == {"2": 1}
    assert later.notes[-1] == "0.9 of macs is out of reach without 0, 1, given up on the way"
    assert (later.base, later.reduce) == (1, 0.9)


def test_of_a_proposal_that_keeps_everything_its_own_notes_count() -> None:
    _, start = bench_and_start(reduce=0.5)
    start = dataclasses.replace(start, notes=("old",))
    assert uncut(start, Proposal({}, notes=("nothing nearer",))).notes == ("nothing nearer",)
    assert uncut(start, Proposal({})).notes == ("old",)


def test_why_a_step_was_made_names_the_cut_that_failed() -> None:
    chosen = Proposal({}, why="f.3: accuracy 0.75")
    assert told_why(chosen, ()) == "f.3: accuracy 0.75"
    assert told_why(chosen, {"f.3"}) == (
        "planned by the criterion, since the certificate of a cut of f.3 failed; chosen was: f.3: accuracy 0.75"
    )
