"""The place of one worker, whoever is in it, and what that one is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunecore.execution.contract import Fault, Job
from prunecore.execution.settings import Limits

Phase = Literal["empty", "starting", "initialising", "idle", "working", "retired"]

_NEVER = float("inf")


@dataclass
class Slot:
    """since, deadline, heard: readings of the session's clock. failures: starts that failed, in a row."""

    number: int
    device: str
    name: str
    phase: Phase = "empty"
    job: Job | None = None
    since: float = 0.0
    deadline: float = _NEVER
    heard: float = 0.0
    failures: int = 0

    def enter(self, phase: Phase, now: float, limit: float = _NEVER) -> None:
        self.phase, self.since, self.heard, self.deadline = phase, now, now, now + limit

    def empty(self) -> None:
        self.phase, self.job, self.deadline = "empty", None, _NEVER

    def due(self, limits: Limits) -> float:
        """When the next limit passes."""
        silent = self.heard + limits.heartbeat if self.phase in ("initialising", "working") else _NEVER
        return min(self.deadline, silent)

    def overdue(self, now: float, limits: Limits) -> Fault | None:
        """The limit that has passed; None where there is none."""
        if self.phase in ("initialising", "working") and now > self.heard + limits.heartbeat:
            silence = f"gave no sign of life for {limits.heartbeat:g} s (limits.heartbeat)"
            return Fault("crash", f"worker {self.name} {silence}")
        if now <= self.deadline:
            return None
        if self.phase == "working" and self.job is not None:
            took = f"took longer than {limits.job:g} s on worker {self.name} (limits.job)"
            return Fault("timeout", f"job {self.job.number} {took}")
        key, done = ("start_up", "started") if self.phase == "starting" else ("initialise", "initialised")
        return Fault("timeout", f"worker {self.name} was not {done} in {getattr(limits, key):g} s (limits.{key})")
