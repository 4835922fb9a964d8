"""Which job goes where, and when it is given up."""

from __future__ import annotations

from typing import Any

from prunecore.execution import Fault, Job, Outcome
from prunecore.execution.attempt import Attempt, encode
from prunecore.execution.ledger import Ledger, silent

CRASH = Fault("crash", "gone")


def ledger(count: int, *, retries: int = 2, told: list[Outcome] | None = None) -> Ledger:
    jobs = [Job(i, f"payload {i}") for i in range(count)]
    return Ledger(jobs, retries=retries, on_event=silent, on_outcome=None if told is None else told.append)


def leased(book: Ledger, slot: int, slots: set[int]) -> int | None:
    found = book.lease(slot, f"w{slot}", slots)
    return None if found is None else found[0].number


def answer(book: Ledger, number: int, value: Any) -> None:
    book.finished(number, "w", Attempt(encode(value), None, 1.5))


def test_jobs_are_leased_in_their_order_and_once() -> None:
    book = ledger(3)
    assert [leased(book, 0, {0, 1}), leased(book, 1, {0, 1}), leased(book, 0, {0, 1}), leased(book, 1, {0, 1})] == [
        0,
        1,
        2,
        None,
    ]
    for number in (2, 0, 1):
        assert not book.settled
        answer(book, number, number * 10)
    assert book.settled
    assert [(o.job, o.value, o.seconds) for o in book.outcomes()] == [(0, 0, 1.5), (1, 10, 1.5), (2, 20, 1.5)]


def test_a_lost_job_waits_for_another_slot_as_long_as_there_is_one() -> None:
    book = ledger(2)
    assert leased(book, 0, {0, 1}) == 0
    book.lost(0, 0, "w0", fault=CRASH, seconds=2.0)
    assert leased(book, 0, {0, 1}) == 1
    answer(book, 1, None)
    assert leased(book, 0, {0, 1}) is None
    assert leased(book, 1, {0, 1}) == 0
    book.lost(0, 1, "w1", fault=CRASH, seconds=2.0)
    assert leased(book, 0, {0, 1}) == 0  # both have lost it: anyone may try


def test_a_lost_job_goes_back_to_its_slot_where_the_others_are_retired() -> None:
    book = ledger(1)
    assert leased(book, 0, {0, 1}) == 0
    book.lost(0, 0, "w0", fault=CRASH, seconds=0.0)
    assert leased(book, 0, {0, 1}) is None
    assert leased(book, 0, {0}) == 0


def test_quarantine_comes_after_the_retries_and_is_told_at_once() -> None:
    told: list[Outcome] = []
    book = ledger(1, retries=1, told=told)
    late = Fault("timeout", "late")
    leased(book, 0, {0})
    book.lost(0, 0, "w0", fault=CRASH, seconds=0.0)
    assert told == []
    leased(book, 0, {0})
    book.lost(0, 0, "w0", fault=late, seconds=3.0)
    (outcome,) = told
    assert (outcome.fault, outcome.attempts, outcome.losses, outcome.seconds) == (late, 2, (CRASH, late), 3.0)
    assert outcome.quarantined
    assert book.outcomes() == told


def test_a_value_after_a_loss_remembers_the_loss() -> None:
    book = ledger(1)
    leased(book, 0, {0})
    book.lost(0, 0, "w0", fault=CRASH, seconds=0.0)
    leased(book, 0, {0})
    answer(book, 0, "x")
    (outcome,) = book.outcomes()
    assert (outcome.value, outcome.fault, outcome.attempts, outcome.losses) == ("x", None, 2, (CRASH,))
    assert not outcome.quarantined
