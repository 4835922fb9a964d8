"""The executor without processes: what local workers do, done here, one job after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from prunecore.execution.attempt import attempt, fault_of, initialised
from prunecore.execution.contract import Job, OnEvent, OnOutcome, Outcome, Setup, WorkerError
from prunecore.execution.ledger import Ledger, silent


@dataclass(frozen=True)
class InProcessExecutor:
    """device: a name such as `cpu` or `cuda:0`. threads: of torch on the CPU, while a job is done. No limit can be enforced here."""

    device: str = "cpu"
    threads: int = 1

    def open(self, setup: Setup, on_event: OnEvent | None = None) -> InProcessSession:
        """Initialise the state. Raises WorkerError where that fails."""
        return InProcessSession(setup, self, on_event or silent)


class InProcessSession:
    """See `prunecore.execution.Session`."""

    def __init__(self, setup: Setup, executor: InProcessExecutor, on_event: OnEvent) -> None:
        self._setup = setup
        self._executor = executor
        self._on_event = on_event
        self._closed = False
        self._state: Any = None
        try:
            with self._threads():
                self._state = initialised(setup, executor.device)
        except Exception as error:
            fault = fault_of(error, "initialise the worker")
            raise WorkerError(fault.message, fault.traceback) from error
        on_event({"event": "worker_started", "worker": executor.device, "device": executor.device})

    def run(self, jobs: Sequence[Job], on_outcome: OnOutcome | None = None) -> list[Outcome]:
        if self._closed:
            raise WorkerError("this session of workers is closed: open another")
        name = self._executor.device
        ledger = Ledger(jobs, retries=0, on_event=self._on_event, on_outcome=on_outcome)
        while (leased := ledger.lease(0, name, {0})) is not None:
            job, payload = leased
            with self._threads():
                made = attempt(self._setup, self._state, payload, seed=job.seed, device=name)
            ledger.finished(job.number, name, made)
            if made.poisoned and made.fault is not None:
                raise WorkerError(f"this process has lost its CUDA context, start another: {made.fault.message}")
        return ledger.outcomes()

    def close(self) -> None:
        """Let go of the state."""
        self._state, self._closed = None, True

    def __enter__(self) -> InProcessSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """As many as a worker process has, so that results are the same to the last digit."""
        if not self._setup.torch:
            yield
            return
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._executor.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
