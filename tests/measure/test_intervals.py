from __future__ import annotations

import math
import random

import pytest

from prunecore.measure.intervals import FEWEST, Interval, median_interval, median_rank, paired_ratios


# the ranks that tables of the sign test give for 95 %
@pytest.mark.parametrize(
    ("n", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18), (100, 40)]
)
def test_ranks_are_those_of_the_sign_test(n: int, rank: int) -> None:
    assert median_rank(n) == rank


@pytest.mark.parametrize("n", [FEWEST, 7, 30, 101, 1000])
def test_the_rank_is_the_largest_that_covers_95_percent(n: int) -> None:
    def covered(k: int) -> float:
        return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    assert covered(median_rank(n)) >= 0.95 > covered(median_rank(n) + 1)


def test_median_and_interval_of_known_values() -> None:
    values = [float(v) for v in range(1, 21)]
    random.Random(0).shuffle(values)
    assert median_interval(values) == Interval(10.5, 6.0, 15.0)
    assert median_interval(values).width == pytest.approx(9 / 10.5)


def test_outliers_do_not_move_it() -> None:
    quiet = [1.0 + i / 1000 for i in range(25)]
    assert (
        median_interval([*quiet[:-4], 50.0, 60.0, 70.0, 80.0])
        == median_interval(quiet)
        == Interval(1.012, 1.007, 1.017)
    )


def test_of_few_values_the_interval_is_their_range() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0)


def test_at_least_95_of_100_intervals_hold_the_median_of_a_skewed_distribution() -> None:
    draw = random.Random(1)
    samples = ([draw.lognormvariate(0, 1) for _ in range(25)] for _ in range(2000))
    hits = sum(i.low <= 1 <= i.high for i in map(median_interval, samples))  # the median of exp(N(0, 1)) is 1
    assert hits / 2000 == pytest.approx(0.957, abs=0.015)  # what rank 8 of 25 covers; three standard errors


def test_ratios_are_paired() -> None:
    assert paired_ratios([1.0, 6.0, 1.5], [2.0, 4.0, 1.0]) == [0.5, 1.5, 1.5]
    with pytest.raises(ValueError, match="zip"):
        paired_ratios([1.0], [1.0, 2.0])
