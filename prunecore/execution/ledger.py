"""Which jobs of a run wait, which are leased to whom, and what has become of the others. Knows nothing of processes or time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prunecore.execution.attempt import Attempt, decode, encode, fault_of
from prunecore.execution.contract import Fault, Job, OnEvent, OnOutcome, Outcome


@dataclass
class _Account:
    """A job with the attempts that were lost, and the slots that lost them."""

    job: Job
    losses: list[Fault] = field(default_factory=list)
    lost_by: set[int] = field(default_factory=set)


class Ledger:
    """The jobs of one run. A slot is the place of a worker: a worker that was replaced has the slot of the old one."""

    def __init__(self, jobs: Sequence[Job], *, retries: int, on_event: OnEvent, on_outcome: OnOutcome | None) -> None:
        numbers = [job.number for job in jobs]
        if len(set(numbers)) < len(numbers):
            twice = sorted({n for n in numbers if numbers.count(n) > 1})
            raise ValueError(f"two jobs have the number {twice[0]}; give every job of a run its own")
        self._numbers = numbers
        self._retries = retries
        self._on_event = on_event
        self._on_outcome = on_outcome
        self._accounts = {job.number: _Account(job) for job in jobs}
        self._waiting = deque(numbers)
        self._outcomes: dict[int, Outcome] = {}

    @property
    def settled(self) -> bool:
        """Whether every job has an outcome."""
        return len(self._outcomes) == len(self._numbers)

    def outcomes(self) -> list[Outcome]:
        """In the order of the jobs."""
        return [self._outcomes[number] for number in self._numbers]

    def lease(self, slot: int, name: str, slots: set[int]) -> tuple[Job, bytes] | None:
        """The next job for a worker that is free, with its pickled payload; None where there is none for it.

        A job is tried elsewhere than where it was lost, as long as there is an elsewhere among `slots`.
        """
        for number in tuple(self._waiting):
            account = self._accounts[number]
            if slot in account.lost_by and slots - account.lost_by:
                continue
            self._waiting.remove(number)
            try:
                payload = encode(account.job.payload)
            except Exception as error:
                self._settle(account, name, fault=fault_of(error, "pickle the payload"))
                continue
            self._tell("job_started", job=number, worker=name, attempt=len(account.losses) + 1)
            return account.job, payload
        return None

    def finished(self, number: int, name: str, made: Attempt) -> None:
        """A worker has answered."""
        value, fault = None, made.fault
        if made.value is not None:
            try:
                value = decode(made.value)
            except Exception as error:
                fault = fault_of(error, "read the value")
        self._settle(self._accounts[number], name, value=value, fault=fault, seconds=made.seconds)

    def lost(self, number: int, slot: int, name: str, *, fault: Fault, seconds: float) -> None:
        """A worker is gone, and this job's attempt with it."""
        account = self._accounts[number]
        account.losses.append(fault)
        account.lost_by.add(slot)
        if len(account.losses) <= self._retries:
            self._waiting.append(number)
            self._tell("job_retried", job=number, worker=name, attempt=len(account.losses), why=fault.message)
            return
        self._tell("quarantined", job=number, worker=name, attempts=len(account.losses), why=fault.message)
        self._settle(account, name, fault=fault, seconds=seconds)

    def _settle(
        self, account: _Account, name: str, *, value: Any = None, fault: Fault | None = None, seconds: float = 0.0
    ) -> None:
        number, losses = account.job.number, tuple(account.losses)
        quarantined = fault is not None and fault.kind in ("timeout", "crash")
        attempts = len(losses) if quarantined else len(losses) + 1
        outcome = Outcome(number, value, fault, attempts, name, seconds, losses)
        self._outcomes[number] = outcome
        kind = fault.kind if fault else None
        self._tell("job_done", job=number, worker=name, attempts=attempts, seconds=seconds, fault=kind)
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _tell(self, event: str, **values: Any) -> None:
        self._on_event({"event": event, **values})


def silent(event: Any) -> None:
    """An `on_event` that tells nobody."""
