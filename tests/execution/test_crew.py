"""The loop, over workers that are only pretended: there is room for some of them, and machines may join."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest

from prunecore.execution import Job, Limits, WorkerError
from prunecore.execution.attempt import Attempt, decode, encode
from prunecore.execution.crew import CrewSession, LastWords, Rules, Said
from prunecore.execution.ledger import silent
from prunecore.execution.slot import Slot


class Pretended:
    """Workers that answer at once what they were given, where there is room. kills: payloads that end who gets them."""

    def __init__(
        self, *, elastic: bool = True, room: int = 9, kills: Sequence[Any] = (), refuses: bool = False
    ) -> None:
        self.elastic = elastic
        self.room = room
        self._kills = list(kills)
        self._refuses = refuses
        self._said: list[Said] = []
        self._there: set[int] = set()
        self._waiting: list[int] = []
        self._dead: set[int] = set()
        self.hired = 0
        self.ended = False

    def hire(self, slot: Slot) -> None:
        self.hired += 1
        if self._refuses:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self._waiting.append(slot.number)

    def initialise(self, slot: Slot) -> None:
        self._said.append(Said(slot.number, "ready", about={"pid": 1}))

    def hand(self, slot: Slot, job: Job, payload: bytes) -> None:
        if job.payload in self._kills:
            self._kills.remove(job.payload)
            self._dead.add(slot.number)
        else:
            self._said.append(
                Said(slot.number, "done", made=Attempt(encode((slot.number, decode(payload))), None, 0.0))
            )

    def listen(self, wait: float) -> Sequence[Said]:
        while self._waiting and len(self._there) < self.room:
            self._there.add(self._waiting[0])
            self._said.append(Said(self._waiting.pop(0), "hello"))
        said, self._said = self._said, []
        return said

    def gone(self, slot: Slot) -> bool:
        return slot.number in self._dead

    def dismiss(self, slot: Slot, *, at_once: bool) -> LastWords:
        self._dead.discard(slot.number)
        self._there.discard(slot.number)
        return LastWords("fell over")

    def end(self, idle: Sequence[Slot], limit: float) -> None:
        self.ended = True

    def shortage(self) -> str:
        return "all is taken"


def session_of(means: Pretended, count: int, **limits: float) -> CrewSession:
    slots = [Slot(number, "cpu", f"w{number}") for number in range(count)]
    return CrewSession(means, slots, Rules(2, 3, Limits(**limits)), silent)


def test_one_worker_is_enough_to_begin_and_others_join_when_there_is_room() -> None:
    means = Pretended(room=1)
    with session_of(means, 2) as session:
        session.start()
        assert {o.value for o in session.run([Job(i, "x") for i in range(4)])} == {(0, "x")}
        means.room = 2
        session.run([Job(0, "y")])
        assert {o.value[0] for o in session.run([Job(i, "x") for i in range(4)])} == {0, 1}
    assert means.ended


def test_a_lost_job_does_not_wait_for_a_worker_without_room() -> None:
    with session_of(Pretended(room=1, kills=["bad"]), 2) as session:
        session.start()
        (outcome,) = session.run([Job(0, "bad")])
    assert outcome.attempts == 2
    assert outcome.losses[0].message in ("worker w0 fell over at job 0", "worker w1 fell over at job 0")


def test_a_crew_without_anybody_gives_up_after_the_limit() -> None:
    means = Pretended(room=0)
    session = session_of(means, 2, start_up=0.2)
    with pytest.raises(WorkerError) as caught:
        session.start()
    assert str(caught.value) == "no worker was started in 0.2 s (limits.start_up): all is taken"
    assert means.ended


def test_a_machine_that_refuses_processes_is_asked_three_times() -> None:
    means = Pretended(elastic=False, refuses=True)
    with pytest.raises(WorkerError, match=r"tried 3 times in a row: worker w0: .*Resource temporarily unavailable"):
        session_of(means, 1).start()
    assert means.hired == 3
    assert means.ended
