from __future__ import annotations

import pytest

from prunecore.errors import TargetError
from prunecore.planning import plan_measured, uniform_scores
from prunecore.types import Proposal, Target
from tests.planning.hand_graphs import chain, counts_of, macs

GRAPH = chain([64, 96, 64], outputs=100)
SCORES = uniform_scores(GRAPH.groups)


class Meter:
    """A measure with a part that no cut removes and a part that goes with the channels (norms, activations)."""

    def __init__(self, fixed: float = 0.1, norms: float = 20.0) -> None:
        self.calls = 0
        self._fixed, self._norms = fixed, norms
        self._whole = self._total({})

    def _total(self, kept: dict[str, int]) -> float:
        widths = {**GRAPH.widths, **kept}
        return macs(GRAPH, widths) + self._norms * sum(widths.values()) + self._fixed * macs(GRAPH)

    def __call__(self, proposal: Proposal) -> float:
        self.calls += 1
        return self._total(counts_of(proposal.kept)) / self._whole


@pytest.mark.parametrize("reduce", [0.0, 0.2, 0.5, 0.8])
def test_the_measured_size_is_hit_in_a_few_measurements(reduce: float) -> None:
    meter = Meter()
    made = plan_measured(GRAPH, SCORES, Target(reduce, measure="ptflops"), meter)
    assert abs(made.size - (1 - reduce)) <= 0.005
    assert made.proposal.reduce == reduce
    assert made.notes == ()
    calls = meter.calls
    assert calls <= 6
    assert made.size == meter(made.proposal)


def test_with_alignment_never_above_the_goal() -> None:
    meter = Meter()
    made = plan_measured(GRAPH, SCORES, Target(0.5, measure="ptflops", multiple_of=8), meter)
    assert made.size <= 0.5
    assert all(len(stays) % 8 == 0 for stays in made.proposal.kept.values())


def test_out_of_reach() -> None:
    with pytest.raises(TargetError, match=r"0.5 of ptflops is out of reach; at most \d+\.\d % can go"):
        plan_measured(GRAPH, SCORES, Target(0.5, measure="ptflops"), Meter(fixed=3.0))


def test_a_measure_in_steps_is_told_to_be_missed() -> None:
    def coarse(proposal: Proposal) -> float:
        return 1.0 if macs(GRAPH, counts_of(proposal.kept)) > 0.55 * macs(GRAPH) else 0.3

    made = plan_measured(GRAPH, SCORES, Target(0.5, measure="ptflops"), coarse)
    assert made.size == 0.3
    assert made.notes == ("ptflops: size 0.3000 is the closest to 0.5000 in 6 tries",)
