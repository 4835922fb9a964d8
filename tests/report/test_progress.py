"""How long it takes: by hand."""

from __future__ import annotations

import pytest

from prunecore.report.progress import TimeLeft, estimated, time_left


@pytest.mark.parametrize(("epochs", "rounds", "seconds"), [(4, 3, 30.0), (1, 1, 4.0), (0, 5, 10.0)])
def test_a_run_takes_an_epoch_more_a_round_than_it_trains(epochs: int, rounds: int, seconds: float) -> None:
    assert estimated(2.0, epochs=epochs, rounds=rounds) == seconds


def test_nothing_is_known_before_the_second_round() -> None:
    assert time_left([], 4) is None
    assert time_left([100.0], 4) is None


def test_what_is_left_counts_the_round_that_begins() -> None:
    # the second of four rounds begins: three are left, of the 10 s that the first took
    assert time_left([100.0, 110.0], 4) == TimeLeft(30.0, 30.0, 30.0)
    # the last one begins
    assert time_left([0.0, 10.0, 16.0, 20.0], 4) == TimeLeft(pytest.approx(20 / 3), 4.0, 10.0)


def test_the_last_three_rounds_count() -> None:
    starts = [0.0, 1000.0, 1009.0, 1015.0, 1018.0]  # 1000, 9, 6, 3 s
    assert time_left(starts, 10) == TimeLeft(6 * 6.0, 6 * 3.0, 6 * 9.0)


def test_nothing_is_said_of_more_rounds_than_were_meant() -> None:
    assert time_left([0.0, 1.0, 2.0], 2) is None
    assert time_left([0.0, 1.0], 0) is None
