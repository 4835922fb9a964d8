"""What a search shrinks: one block at a time, by allowed steps, never far past the target."""

from __future__ import annotations

import numpy as np
import pytest

from prunecore.planning import block_cuts
from prunecore.types import Link, Target
from tests.planning.hand_graphs import chain, counts_of, macs


def scores(graph, worst=0):
    """Channel `worst` is the least salient, then the highest indices."""
    found = {}
    for g in graph.groups:
        values = np.arange(g.channels, 0, -1, dtype=float)
        values[worst] = 0.0
        found[g.name] = values
    return found


def cuts(graph, *, delta=0.1, saving=None, reduce=0.5, **target):
    whole = float(macs(graph))
    return block_cuts(graph, scores(graph), Target(reduce, **target), delta=delta, saving=saving, whole=whole)


def test_a_tenth_of_every_block_goes_least_salient_first():
    graph = chain([20, 40])
    first, second = cuts(graph)
    assert (first.block, first.before, first.after) == ("c0", 20, 18)
    assert (second.block, second.before, second.after) == ("c1", 40, 36)
    assert first.kept["c0"].tolist() == list(range(1, 19))  # 0 is the worst, 19 the next
    assert list(first.kept) == ["c0"]
    assert first.size == pytest.approx(macs(graph, {"c0": 18}) / macs(graph))


def test_at_least_one_step_goes_and_blocks_that_cannot_shrink_are_left_out():
    graph = chain([3, 40, 8], frozen={2: "output"})
    found = {c.block: c.after for c in cuts(graph, delta=0.05, min_channels=2)}
    assert found == {"c0": 2, "c1": 38}
    assert cuts(graph, min_channels=40) == ()


def test_steps_end_on_the_multiple():
    graph = chain([32, 20])
    found = {c.block: c.after for c in cuts(graph, multiple_of=8)}
    assert found == {"c0": 24, "c1": 16}


def test_linked_blocks_shrink_together():
    graph = chain([10, 20, 30], links=[Link(("c0", "c1"), (1, 2), "derived")])
    found = cuts(graph, delta=0.2)
    assert [c.block for c in found] == ["c0", "c2"]
    assert counts_of(found[0].kept) == {"c0": 8, "c1": 16}


def test_a_cut_stops_where_the_target_is_met():
    graph = chain([20, 40])
    near = 1.0 - macs(graph, {"c1": 39}) / macs(graph)
    (found,) = [c for c in cuts(graph, delta=0.5, reduce=near) if c.block == "c1"]
    assert found.after == 39


def test_by_saving_every_block_gives_the_same_and_one_that_cannot_is_left_out():
    graph = chain([20, 40, 3])
    whole = macs(graph)
    found = {c.block: c for c in cuts(graph, saving=0.1)}
    assert sorted(found) == ["c0", "c1"]  # the last one has three channels
    for name, cut in found.items():
        one_more = macs(graph, {name: cut.after + 1}) / whole
        assert cut.size <= 0.9 < one_more
