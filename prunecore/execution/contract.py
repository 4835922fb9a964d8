"""The executor contract: what a caller hands to workers, and what it gets back. No torch here.

    with executor.open(Setup(initialise, work, args=(recipe,))) as session:
        outcomes = session.run([Job(number, payload, seed=derive_seed(seed, number)) for ...])

An executor keeps workers for as long as a session is open. Each builds its state once, by `initialise`, and then serves jobs
by `work`. What comes back depends on the setup and the job alone: never on how many workers there are, on which of them a job
ran, on the order in which jobs ended, or on jobs that ran before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from prunecore.errors import PrunecoreError

FaultKind = Literal["error", "memory", "timeout", "crash"]
OnEvent = Callable[[Mapping[str, Any]], None]


class WorkerError(PrunecoreError):
    """Workers cannot be started or reached: there is nobody left to give jobs to. traceback: the worker's, where it left one."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True, eq=False)
class Setup:
    """How every worker builds its state, and what it does with a job.

    initialise(device, *args) -> state, once a worker; device: a name such as `cpu` or `cuda:1`. work(state, payload) -> value.
    Both are functions of a module that a new process can import (no lambda, no inner function), and `args` can be pickled:
    once a session, not once a job. An executor without processes hands `args` over as they are, so `initialise` leaves them
    as it got them: it copies the network that it puts on the device.
    seed: of the generators while `initialise` runs. torch: False for work without torch; workers then start without importing it.

    The duty of `work`: to leave `state`, and whatever else is global, as it found it (copy what it trains); its payload is a
    copy of its own. It draws from the global generators, which are seeded for the job, or from generators seeded by the payload.
    Code that holds the interpreter's lock for longer than the heartbeat limit is taken for a stopped worker.
    """

    initialise: Callable[..., Any]
    work: Callable[[Any, Any], Any]
    args: tuple[Any, ...] = ()
    seed: int = 0
    torch: bool = True


@dataclass(frozen=True, eq=False)
class Job:
    """What a worker is asked. number: unique among the jobs of a run. seed: of the generators of torch, numpy and python.

    The payload and the value that `work` makes of it are pickled, tensors included; they should be on the CPU. A tensor that is a
    view takes the whole of its storage along: clone it.
    """

    number: int
    payload: Any
    seed: int = 0


@dataclass(frozen=True)
class Fault:
    """Why there is no value. message: one line. traceback: the worker's own, for a log file; empty where there is none.

    kind: `error`, `work` raised (or could not be pickled), and would again; `memory`, there was too little of it; `timeout`, the
    limit of a job passed; `crash`, the worker died or stopped.
    """

    kind: FaultKind
    message: str
    traceback: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a job: a value, or a fault.

    losses: one fault for every attempt that was lost to a time limit or with its worker; attempts: these and the last one.
    worker: who made the last attempt. seconds: how long that took.
    """

    job: int
    value: Any = None
    fault: Fault | None = None
    attempts: int = 1
    worker: str = ""
    seconds: float = 0.0
    losses: tuple[Fault, ...] = ()

    @property
    def quarantined(self) -> bool:
        """Given up after too many lost attempts. This hangs on time and chance: a caller that can resume journals it as a decision."""
        return self.fault is not None and self.fault.kind in ("timeout", "crash")


OnOutcome = Callable[[Outcome], None]


class Session(Protocol):
    """Workers, for as long as it is open; to be used by one thread at a time."""

    def run(self, jobs: Sequence[Job], on_outcome: OnOutcome | None = None) -> list[Outcome]:
        """The outcomes in the order of `jobs`, when all are there.

        on_outcome: told each as soon as it is there, in whatever order they end; for a journal that must not lose one.
        Where it raises, or Ctrl-C comes, the workers that were at work are ended; the session can be used again.
        Raises WorkerError where no worker is left that can be started; ValueError for two jobs of one number.
        """
        ...

    def close(self) -> None:
        """End the workers within the shutdown limit. A second call does nothing."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Executor(Protocol):
    """Where candidates are evaluated."""

    def open(self, setup: Setup, on_event: OnEvent | None = None) -> Session:
        """Start the workers, and wait until each has its state.

        on_event: told, as plain values, `worker_started`, `worker_lost` (why), `worker_retired` (failures, why: its place stays
        empty), each with worker and device; `job_started` (attempt), `job_retried` (attempt, why), `quarantined` (attempts, why),
        `job_done` (attempts, seconds, fault: its kind or None), each with job and worker. `event["event"]` names it.
        Raises WorkerError (a worker cannot be started or initialised), ConfigError.
        """
        ...
