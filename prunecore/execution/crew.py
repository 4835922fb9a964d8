"""Workers that may be lost, wherever they are: one loop for all executors that have processes.

The loop never waits without a limit: it starts who is missing, leases jobs to who is free, listens, and replaces whoever has died,
fallen silent or passed a limit. How workers are started, spoken to and ended is the business of its `Means`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

from prunecore.execution.attempt import Attempt
from prunecore.execution.clock import Clock
from prunecore.execution.contract import Fault, Job, OnEvent, OnOutcome, Outcome, WorkerError
from prunecore.execution.ledger import Ledger
from prunecore.execution.settings import Limits
from prunecore.execution.slot import Slot

_TICK = 0.5  # s; how often deaths are looked for that nothing else tells of


@dataclass(frozen=True)
class Said:
    """What the worker of a slot says. about: plain values (a process id …) with `ready`; fault: with `broken`; made: with `done`."""

    slot: int
    what: Literal["hello", "ready", "broken", "beat", "done"]
    about: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    made: Attempt | None = None


class LastWords(NamedTuple):
    """How a worker ended, in words that follow its name, and the traceback that it left, or nothing."""

    how: str
    trace: str = ""


class Means(Protocol):
    """How workers are started, spoken to and ended. Nothing here may wait longer than it is told to, nor about a second.

    elastic: there may be no room for a worker until a machine joins; its start then has no limit while others are there.
    """

    elastic: bool

    def hire(self, slot: Slot) -> None:
        """Start a worker; it says `hello` when it is there."""
        ...

    def initialise(self, slot: Slot) -> None:
        """Give it the setup; it says `ready` or `broken`, and `beat` meanwhile."""
        ...

    def hand(self, slot: Slot, job: Job, payload: bytes) -> None:
        """Give it a job; it says `done`, and `beat` meanwhile."""
        ...

    def listen(self, wait: float) -> Sequence[Said]:
        """What workers have said, as soon as there is something, at the latest after `wait` seconds."""
        ...

    def gone(self, slot: Slot) -> bool:
        """Whether the worker has ended or cannot be reached any more."""
        ...

    def dismiss(self, slot: Slot, *, at_once: bool) -> LastWords:
        """End a worker, which may be gone already, and forget it. at_once: it is not about to leave by itself."""
        ...

    def end(self, idle: Sequence[Slot], limit: float) -> None:
        """End all workers within `limit` seconds; the idle ones may leave by themselves."""
        ...

    def shortage(self) -> str:
        """Why there may be no worker at all, in one line."""
        ...


@dataclass(frozen=True)
class Rules:
    """retries: of a job. starts: that may fail in a row."""

    retries: int
    starts: int
    limits: Limits


class CrewSession:
    """See `prunecore.execution.Session`. To be started before it is used."""

    def __init__(self, means: Means, slots: Sequence[Slot], rules: Rules, on_event: OnEvent) -> None:
        self._means = means
        self._slots = slots
        self._rules = rules
        self._limits = rules.limits
        self._on_event = on_event
        self._clock = Clock()
        self._deserted = self._clock.now()
        self._owner = os.getpid()
        self._opening, self._running, self._closed = True, False, False
        # where nobody closes the session, python would wait for its processes without a limit when it ends
        self._at_exit = Finalize(None, self.close, exitpriority=100)

    def start(self) -> None:
        """Start every worker and wait until each is idle (one, where the means are elastic). Raises WorkerError."""
        enough = any if self._means.elastic else all
        try:
            while not enough(slot.phase == "idle" for slot in self._slots):
                self._turn(None)
        except BaseException:
            self.close()
            raise
        self._opening = False

    def run(self, jobs: Sequence[Job], on_outcome: OnOutcome | None = None) -> list[Outcome]:
        if self._closed or self._running:
            what = "is closed: open another" if self._closed else "is at work: wait for its outcomes"
            raise WorkerError(f"this session of workers {what}")
        ledger = Ledger(jobs, retries=self._rules.retries, on_event=self._on_event, on_outcome=on_outcome)
        self._running = True
        try:
            while not ledger.settled:
                self._turn(ledger)
        finally:
            self._running = False
            self._drop_leases()
        return ledger.outcomes()

    def close(self) -> None:
        """Let idle workers leave by themselves; end the others. A second call does nothing."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        try:
            self._means.end([slot for slot in self._slots if slot.phase == "idle"], self._limits.shutdown)
        finally:
            self._at_exit.cancel()

    def __enter__(self) -> CrewSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- one turn of the loop

    def _turn(self, ledger: Ledger | None) -> None:
        self._clock.tick()
        for slot in self._slots:
            if slot.phase == "empty":
                self._hire(slot)
        if ledger is not None:
            self._lease(ledger)
            if ledger.settled:
                return
        due = min(slot.due(self._limits) for slot in self._slots)
        wait = max(0.0, min(_TICK, due - self._clock.now()))
        said = self._means.listen(wait)
        self._clock.tick(wait)
        self._heed(said, ledger)
        for slot in self._slots:
            self._inspect(slot, ledger)
        self._check_desertion()

    def _hire(self, slot: Slot) -> None:
        limit = float("inf") if self._means.elastic else self._limits.start_up
        slot.enter("starting", self._clock.now(), limit)
        try:
            self._means.hire(slot)
        except OSError as error:  # no process, no memory, no descriptor left
            slot.empty()
            self._count_failure(slot, Fault("crash", f"worker {slot.name}: {error}"), "hiring", raised=False)

    def _lease(self, ledger: Ledger) -> None:
        # where there may be no room for a worker, nobody waits for it
        never = ("retired", "empty", "starting") if self._means.elastic else ("retired",)
        open_slots = {slot.number for slot in self._slots if slot.phase not in never}
        for slot in self._slots:
            if slot.phase != "idle" or self._means.gone(slot):
                continue
            leased = ledger.lease(slot.number, slot.name, open_slots)
            if leased is not None:
                slot.job, payload = leased
                slot.enter("working", self._clock.now(), self._limits.job)
                self._means.hand(slot, slot.job, payload)

    def _heed(self, said: Sequence[Said], ledger: Ledger | None) -> None:
        """What a worker says moves its slot to the next phase."""
        by_number = {slot.number: slot for slot in self._slots}
        for each in said:
            slot, now = by_number[each.slot], self._clock.now()
            slot.heard = now
            if each.what == "hello" and slot.phase == "starting":
                slot.enter("initialising", now, self._limits.initialise)
                self._means.initialise(slot)
            elif each.what == "ready" and slot.phase == "initialising":
                slot.failures = 0
                slot.enter("idle", now)
                self._tell("worker_started", slot, **each.about)
            elif each.what == "broken" and slot.phase == "initialising":
                self._lose(slot, each.fault, ledger, raised=True)
            elif each.what == "done" and ledger is not None and slot.job is not None and each.made is not None:
                self._done(slot, each.made, ledger)

    def _done(self, slot: Slot, made: Attempt, ledger: Ledger) -> None:
        number = slot.job.number if slot.job else -1
        slot.job = None
        slot.enter("idle", self._clock.now())
        if made.poisoned:
            self._lose(slot, Fault("crash", f"worker {slot.name} has lost its CUDA context"), ledger)
        ledger.finished(number, slot.name, made)

    def _inspect(self, slot: Slot, ledger: Ledger | None) -> None:
        """Look for a death, and for a limit that has passed."""
        if slot.phase in ("empty", "retired"):
            return
        if self._means.gone(slot):
            self._heed(self._means.listen(0.0), ledger)  # its last answer may have come meanwhile
            if slot.phase not in ("empty", "retired"):
                self._lose(slot, None, ledger)
            return
        fault = slot.overdue(self._clock.now(), self._limits)
        if fault is not None:
            self._lose(slot, fault, ledger, at_once=True)

    def _check_desertion(self) -> None:
        """Where there is room for nobody, somebody may join; but not for ever."""
        if any(slot.phase in ("initialising", "idle", "working") for slot in self._slots):
            self._deserted = self._clock.now()
        elif self._means.elastic and self._clock.now() > self._deserted + self._limits.start_up:
            limit = f"{self._limits.start_up:g} s (limits.start_up)"
            raise WorkerError(f"no worker was started in {limit}: {self._means.shortage()}")

    # ---------------------------------------------------------------- losses

    def _lose(
        self,
        slot: Slot,
        fault: Fault | None,
        ledger: Ledger | None,
        *,
        raised: bool = False,
        at_once: bool = False,
    ) -> None:
        """The worker of a slot is gone, or has to go. fault: why; None: ask how it ended. raised: by `initialise`."""
        phase, job, seconds = slot.phase, slot.job, self._clock.now() - slot.since
        last = self._means.dismiss(slot, at_once=at_once)
        if fault is None:
            doing = f" at job {job.number}" if job is not None else " while it started" * (phase != "idle")
            fault = Fault("crash", f"worker {slot.name} {last.how}{doing}", last.trace)
        slot.empty()
        self._tell("worker_lost", slot, why=fault.message)
        if phase in ("starting", "initialising"):
            self._count_failure(slot, fault, phase, raised=raised)
        elif job is not None and ledger is not None:
            ledger.lost(job.number, slot.number, slot.name, fault=fault, seconds=seconds)

    def _count_failure(self, slot: Slot, fault: Fault, phase: str, *, raised: bool) -> None:
        """A start has failed: try again, do without the slot, or give up. What `initialise` raises at first it would raise again."""
        slot.failures += 1
        if slot.failures < self._rules.starts and not (raised and self._opening):
            return
        slot.phase = "retired"
        if any(s.phase != "retired" for s in self._slots) and not self._opening:
            self._tell("worker_retired", slot, failures=slot.failures, why=fault.message)
            return
        times = f"{slot.failures} times in a row" if slot.failures > 1 else "once"
        hint = ""
        if phase == "starting" and fault.kind == "crash" and not self._means.elastic:
            hint = "; it may have said why on standard error; a script that starts workers needs `if __name__ == '__main__':`"
        raise WorkerError(f"workers cannot be started, tried {times}: {fault.message}{hint}", fault.traceback)

    def _drop_leases(self) -> None:
        """End the workers that are still at a job, which nobody waits for any more."""
        for slot in self._slots:
            if slot.phase == "working":
                self._means.dismiss(slot, at_once=True)
                slot.empty()

    def _tell(self, event: str, slot: Slot, **values: object) -> None:
        self._on_event({"event": event, "worker": slot.name, "device": slot.device, **values})
