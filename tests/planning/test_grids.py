from __future__ import annotations

import numpy as np

from prunecore.planning.bundles import Bundle
from prunecore.planning.grids import Step, axes_of, counts_of
from prunecore.types import Affine
from tests.planning.hand_graphs import group

WIDE = Bundle((group("a", 8),), np.arange(8, 0, -1)[:, None])
ALIGNED = Bundle((group("b", 20),), np.array([[20], [16], [8]]))
TIED = Bundle((group("c", 4), group("d", 8)), np.array([[4, 8], [2, 4]]))


def step(bundle: Bundle, removed: int, *sizes: tuple[int, ...]) -> Step:
    return Step(bundle, counts_of(bundle), removed, sizes)


def test_counts_hold_the_uncut_width_also_where_aligning_cuts_anyway() -> None:
    assert counts_of(Bundle((group("b", 20),), np.array([[16], [8]]))) == (20, 16, 8)


def test_sizes_that_shrink_in_proportion_share_an_axis_that_ends_at_the_least_and_the_uncut_width() -> None:
    # a layer of a inputs and 2 b outputs, whose weight is (2 b, a)
    whole = (1, 8, 40, 8, 3)
    steps = [step(WIDE, 4, (1, 4, 40, 4, 3)), step(ALIGNED, 12, (1, 8, 16, 8, 3))]
    first, second = axes_of(0, whole, steps, 3)
    assert first.size == Affine(0, (("a", 2),))
    assert first.points == (2, 8, 16)
    assert first.sizes == ({1: 1, 3: 1}, {1: 4, 3: 4}, {1: 8, 3: 8})
    assert second.size == Affine(0, (("b", 2),))
    assert second.points == (16, 32, 40)
    assert second.sizes == ({2: 16}, {2: 32}, {2: 40})


def test_of_a_sum_every_part_loses_the_same_fraction() -> None:
    whole, steps = (1, 28), [step(WIDE, 4, (1, 24)), step(ALIGNED, 12, (1, 16))]
    (axis,) = axes_of(0, whole, steps, 3)
    assert axis.size == Affine(0, (("a", 1), ("b", 1)))
    assert axis.points == (1 + 8, 4 + 16, 8 + 20)


def test_more_than_two_directions_share_one_axis() -> None:
    whole = (8, 20, 4, 7)
    steps = [step(WIDE, 4, (4, 20, 4, 7)), step(ALIGNED, 12, (8, 8, 4, 7)), step(TIED, 2, (8, 20, 2, 7))]
    (axis,) = axes_of(0, whole, steps, 2)
    assert axis.size == Affine(0, (("a", 1), ("b", 1), ("c", 1)))
    assert axis.points == (1 + 8 + 2, 8 + 20 + 4)
    assert axis.sizes == ({0: 1, 1: 8, 2: 2}, {0: 8, 1: 20, 2: 4})


def test_a_size_that_falls_by_a_fraction_of_a_channel_is_still_whole() -> None:
    # one position for every two channels, plus one: 1 + a / 2
    (axis,) = axes_of(0, (5,), [step(Bundle(WIDE.groups, WIDE.ladder[::2]), 4, (3,))], 9)
    assert axis.points == (2, 3, 4, 5)
    assert [axis.size({"a": count}) for count in (2, 4, 6, 8)] == [2, 3, 4, 5]


def test_a_call_that_no_width_changes_has_no_axis() -> None:
    assert axes_of(0, (3, 3), [step(WIDE, 4, (3, 3))], 5) == ()
