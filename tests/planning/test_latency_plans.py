from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from prunecore.errors import ConfigError, TargetError
from prunecore.measure import CostModel
from prunecore.measure.tables import LatencyTables, LayerTime, TimeTable
from prunecore.planning import block_cuts, plan, plan_measured, reachable, uniform_scores
from prunecore.types import Affine, DependencyGraph, Proposal, Target
from tests.planning.hand_graphs import chain, counts_of

WIDTHS = [64, 96, 64]
PLAIN = chain(WIDTHS, outputs=100)
SCORES = uniform_scores(PLAIN.groups)


def smooth(width: int) -> float:
    return 1.0 * width


def stairs(width: int) -> float:
    """Blocks of 16 channels; widths that fill no block are slower than the next wider that does: not monotone."""
    blocks = -(-width // 16)
    return 16.0 * blocks if width % 16 == 0 else 20.0 * blocks


def timed(seconds: str, *, rest: float = 0.0, step: int = 1) -> DependencyGraph:
    """PLAIN, each convolution of which takes what its width says, measured at every `step`-th width."""
    rule = {"smooth": smooth, "stairs": stairs}[seconds]
    layers, tables = [], []
    for i, (group, width) in enumerate(zip(PLAIN.groups, WIDTHS, strict=True)):
        at = tuple(sorted({1, width, *range(step, width, step)}))
        tables.append(TimeTable((at,), tuple(rule(w) for w in at)))
        layers.append(LayerTime(group.name, (Affine(0, ((group.name, 1),)),), i))
    found = LatencyTables(tuple(layers), tuple(tables), 0.0, rest, 1.0, rest + sum(map(rule, WIDTHS)), {})
    return dataclasses.replace(PLAIN, latency=found)


def total(seconds: str, proposal: Proposal, rest: float = 0.0) -> float:
    rule = {"smooth": smooth, "stairs": stairs}[seconds]
    counts = counts_of(proposal.kept)
    return rest + sum(rule(counts.get(g.name, g.channels)) for g in PLAIN.groups)


@pytest.mark.parametrize("seconds", ["smooth", "stairs"])
@pytest.mark.parametrize("reduce", [0.1, 0.3, 0.5, 0.7])
def test_the_planned_latency_is_that_of_the_tables_and_hits_the_target(seconds: str, reduce: float) -> None:
    graph = timed(seconds, rest=5.0)
    made = plan(graph, SCORES, Target(reduce, "latency"))
    whole = total(seconds, Proposal({}), 5.0)
    assert made.size == pytest.approx(total(seconds, made.proposal, 5.0) / whole, abs=1e-12)
    assert made.cost.seconds == pytest.approx(made.size * whole)
    if made.notes:  # a staircase has sizes that no state has; then the nearest is said to be it
        text = f"size {made.size:.4f} is the closest to {1 - reduce:.4f} that was found: latency falls in steps"
        assert made.notes == (f"{text} within the limits",)
        assert abs(made.size - (1 - reduce)) <= 0.02  # a step of one layer is 16 / 229 = 0.07
    else:
        assert abs(made.size - (1 - reduce)) <= 0.005


@pytest.mark.parametrize("seconds", ["smooth", "stairs"])
def test_with_alignment_the_latency_is_never_above_the_target(seconds: str) -> None:
    made = plan(timed(seconds, step=8), SCORES, Target(0.4, "latency", multiple_of=16))
    assert made.size <= 0.6
    assert made.size > 0.6 - 16 / sum(WIDTHS)
    assert all(len(stays) % 16 == 0 for stays in made.proposal.kept.values())


def test_without_tables_macs_stand_in() -> None:
    made = plan(PLAIN, SCORES, Target(0.5, "latency"))
    assert made.cost.seconds == 0.0
    assert abs(made.cost.macs / CostModel(PLAIN).cost({}).macs - 0.5) <= 0.005


def test_what_no_cut_changes_limits_what_is_in_reach() -> None:
    graph = timed("smooth", rest=224.0)  # as much as the layers
    reach = reachable(graph, Target(0.0, "latency"))
    assert reach.smallest == pytest.approx((224 + 3) / 448)
    with pytest.raises(TargetError, match=r"0.6 of latency is out of reach; between 0.0 % and 49.3 % can go"):
        plan(graph, SCORES, Target(0.6, "latency"))


def test_block_cuts_are_sized_by_the_tables() -> None:
    (first, *_) = block_cuts(timed("smooth"), SCORES, Target(0.5, "latency"), delta=0.25, whole=224.0)
    assert (first.before, first.after) == (64, 48)
    assert first.size == pytest.approx((224 - 16) / 224)


def test_tables_are_not_extrapolated_by_a_plan() -> None:
    graph = timed("smooth")
    tables = graph.latency
    assert tables is not None
    short = [TimeTable((t.points[0][40:],), t.seconds[40:]) for t in tables.tables]
    graph = dataclasses.replace(graph, latency=dataclasses.replace(tables, tables=tuple(short)))
    with pytest.raises(ConfigError, match="the tables are not extrapolated"):
        plan(graph, SCORES, Target(0.5, "latency"))


# ---------------------------------------------------------------- checked end to end


class Machine:
    """The network takes `bias` more beside its layers than the tables say."""

    def __init__(self, bias: float) -> None:
        self.bias = bias
        self.sizes: list[float] = []

    def __call__(self, proposal: Proposal) -> float:
        whole = total("smooth", Proposal({}))
        self.sizes.append((total("smooth", proposal) + self.bias * whole) / (whole * (1 + self.bias)))
        return self.sizes[-1]


def test_a_plan_that_the_check_confirms_is_made_once() -> None:
    machine = Machine(0.02)
    made = plan_measured(timed("smooth"), SCORES, Target(0.3, "latency"), machine)
    assert len(machine.sizes) == 1
    assert made.size == machine.sizes[0]
    assert made.notes == ()


def test_where_the_check_differs_the_tables_are_asked_for_less() -> None:
    machine = Machine(0.25)
    made = plan_measured(timed("smooth"), SCORES, Target(0.3, "latency"), machine)
    assert abs(made.size - 0.7) <= 0.02
    assert len(machine.sizes) == 2
    asked = 1 - (1 - 0.7) * 0.3 / (1 - machine.sizes[0])
    assert asked < 0.95
    assert made.notes[0].startswith("latency: planned 2 times, size asked of the tables -> measured: 0.700 -> 0.76")


def test_out_of_reach_of_the_whole_network() -> None:
    with pytest.raises(TargetError, match=r"0.6 of latency is out of reach; at most 49\.\d % can go"):
        plan_measured(timed("smooth"), SCORES, Target(0.6, "latency"), Machine(1.0))


def test_a_plan_takes_the_vectorised_tables_as_one_evaluation() -> None:
    graph = timed("stairs")
    counts = np.random.default_rng(0).integers(1, 65, size=(4096, 3))
    found = CostModel(graph).seconds(counts)
    assert found.tolist() == [sum(map(stairs, row)) for row in counts.tolist()]
