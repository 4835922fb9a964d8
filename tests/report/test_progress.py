"""How long it takes: by hand."""

from __future__ import annotations

import pytest

from prunecore.report.progress import Mark, TimeLeft, estimated, marks_of, time_left, time_to


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


def test_what_has_passed_is_taken_off() -> None:
    assert TimeLeft(30.0, 20.0, 50.0).after(25.0) == TimeLeft(5.0, 0.0, 25.0)


def record(name: str, at: float, **data: object) -> dict[str, object]:
    return {"event": "value", "name": name, "at": at, "data": data}


def test_rounds_are_read_off_the_journal() -> None:
    assert marks_of([record("loaded", 1.0)]) == ()
    records = [
        record("loaded", 1.0),
        record("before", 2.0),
        record("plan-0-0.250000", 3.0),
        record("candidate-1/cut", 5.0, size=0.75),
        record("candidate-1/search", 9.0, value=0.5),
        record("blocks-1-0.100000", 10.0),
        record("trial-2", 11.0),
        record("trial-3", 12.0),
        record("candidate-4/cut", 13.0, size=0.7),
        record("candidate-4/search", 14.0, value=0.5),
        record("trial-5", 15.0),
        record("candidate-6/cut", 16.0, size=0.65),  # not through yet
        record("control/cut", 17.0, size=0.5),
        record("seconds", 18.0, seconds=18.0),
    ]
    assert marks_of(records) == (Mark(2.0, 1.0), Mark(9.0, 0.75), Mark(14.0, 0.7, tried=True))


def test_a_search_needs_what_its_pace_says() -> None:
    assert time_to([Mark(0.0, 1.0)], 0.5) is None
    # 10 s for a tenth: 40 s for the four tenths that are left
    assert time_to([Mark(5.0, 1.0), Mark(15.0, 0.9, True)], 0.5) == approx(40.0, 40.0, 40.0)
    # 10 s for 0.1, then 30 s for 0.1: 200 s for a whole on average, 100 to 300
    marks = [Mark(0.0, 1.0), Mark(10.0, 0.9, True), Mark(40.0, 0.8, True)]
    assert time_to(marks, 0.5) == approx(60.0, 30.0, 90.0)


def test_the_last_three_rounds_of_a_search_count_and_those_with_trials_only() -> None:
    marks = [
        Mark(0.0, 1.0),
        Mark(1.0, 0.9, True),
        Mark(101.0, 0.8, True),
        Mark(121.0, 0.7, True),
        Mark(151.0, 0.6, True),
    ]
    assert time_to(marks, 0.5) == approx(50.0, 20.0, 100.0)
    # the first cut was planned, in no time; nothing is known before a round with trials, but how it would go on
    assert time_to([Mark(0.0, 1.0), Mark(2.0, 0.8)], 0.6) == approx(2.0, 2.0, 2.0)
    assert time_to([Mark(0.0, 1.0), Mark(2.0, 0.8), Mark(32.0, 0.7, True)], 0.6) == approx(30.0, 30.0, 30.0)


def test_a_round_that_made_nothing_smaller_has_no_pace() -> None:
    assert time_to([Mark(0.0, 1.0), Mark(9.0, 1.0, True)], 0.5) is None
    assert time_to([Mark(0.0, 1.0), Mark(9.0, 1.0, True), Mark(19.0, 0.9, True)], 0.5) == approx(40.0, 40.0, 40.0)


def test_nothing_is_left_at_the_goal() -> None:
    assert time_to([Mark(0.0, 1.0), Mark(10.0, 0.4, True)], 0.5) == TimeLeft(0.0, 0.0, 0.0)


def approx(*values: float) -> TimeLeft:
    return TimeLeft(*(pytest.approx(value) for value in values))
