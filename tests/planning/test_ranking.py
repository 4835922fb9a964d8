from __future__ import annotations

import numpy as np
import pytest
import torch

from prunecore.planning import plan
from prunecore.planning.bundles import Bundle
from prunecore.planning.ranking import leaving_order, merged, normalised, odds, rank
from prunecore.types import Target
from tests.planning.hand_graphs import chain, counts_of, group


def ladder(*counts: int) -> np.ndarray:
    return np.array(counts, dtype=np.int64)[:, None]


def test_the_worth_of_a_step_by_hand() -> None:
    bundle = Bundle((group("c", 4),), ladder(4, 3, 1))
    made = rank(bundle, {"c": np.array([0.0, 4.0, 8.0, 4.0])}, Target(0.5))
    assert made.leaving[0].tolist() == [0, 3, 1, 2]
    # first step: saliency 0; second: channels 3 and 1, both 4 over the geometric mean, halfway 2 gone to 2 left
    geometric = (0.004 * 4.0 * 8.0 * 4.0) ** 0.25  # the dead channel counts as a thousandth of the mean, 4
    assert made.worth.tolist() == pytest.approx([0.0, (4.0 / geometric) ** 0.5])
    assert made.kept(1) == {"c": pytest.approx([1, 2, 3])}
    assert made.kept(2)["c"].tolist() == [2]
    assert made.kept(0) == {}


def test_uniform_worth_is_the_fraction_gone_times_the_sensitivity() -> None:
    bundle = Bundle((group("c", 4),), ladder(4, 3, 1))
    target = Target(0.5, scope="uniform", sensitivity={"c": 2.0})
    assert rank(bundle, {"c": np.ones(4)}, target).worth.tolist() == [0.5, 1.5]


def test_worths_ascend_within_a_bundle() -> None:
    """Parts differ: the second turn may take less salient channels than the first, but never before it."""
    one = group("c", 4, parts=2)
    bundle = Bundle((one,), ladder(4, 2))
    assert len(rank(bundle, {"c": np.array([9.0, 1.0, 1.0, 5.0])}, Target(0.5)).worth) == 1
    two = Bundle((group("a", 4), group("b", 4)), np.array([[4, 4], [3, 3], [2, 2], [1, 1]]))
    worth = rank(two, {"a": np.array([1.0, 2, 3, 4]), "b": np.array([4.0, 4, 4, 4])}, Target(0.5)).worth
    assert (np.diff(worth) >= 0).all()


def test_odds_grow_without_bound() -> None:
    assert odds(np.array([0, 2, 4, 7]), 8).tolist() == [1 / 7, 3 / 5, 5.5 / 2.5]


def test_normalised_by_the_geometric_mean_of_magnitudes() -> None:
    assert normalised(np.array([1.0, -4.0])).tolist() == pytest.approx([0.5, -2.0])
    # scale does not matter, and a dead channel counts as a thousandth of the mean
    assert normalised(np.array([10.0, -40.0])).tolist() == pytest.approx([0.5, -2.0])
    assert normalised(np.array([0.0, 2.0])).tolist() == pytest.approx([0.0, 2.0 / (0.001 * 2.0) ** 0.5])
    assert normalised(np.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_leaving_in_turns_through_the_parts() -> None:
    one = group("c", 6, parts=2)
    assert leaving_order(one, np.array([3.0, 1.0, 2.0, 5.0, 5.0, 4.0])).tolist() == [1, 5, 2, 4, 0, 3]


def test_steps_of_equal_worth_go_where_less_is_gone() -> None:
    bundles = [Bundle((group(n, c),), ladder(*range(c, 0, -1))) for n, c in (("a", 4), ("b", 2))]
    scores = {"a": np.array([0.0, 0.0, 0.0, 9.0]), "b": np.array([0.0, 9.0])}
    order, worth = merged([rank(b, scores, Target(0.5)) for b in bundles])
    assert worth.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert order.tolist() == [0, 0, 1, 0]


def test_heavy_tails_collapse_no_group() -> None:
    """Two channels of c0 hold nine tenths of its saliency: by saliency alone the other thirty would all go first."""
    graph = chain([32, 32], outputs=32)
    tail = torch.full((32,), 0.1)
    tail[:2] = 14.5
    widths = counts_of(plan(graph, {"c0": tail, "c1": torch.linspace(0.5, 1.5, 32)}, Target(0.5)).proposal.kept)
    # geometric means 0.136 and 0.955, so the last steps are worth: c0's 13th (0.73 * 12.5 / 19.5) ** 0.5 = 0.69,
    # c1's 12th (0.90 * 11.5 / 20.5) ** 0.5 = 0.71
    assert widths == {"c0": 19, "c1": 20}
