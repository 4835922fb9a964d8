"""Persistent worker processes on this machine. Nothing in the parent blocks on one, so nothing that it does or omits can hang it."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunecore.execution.attempt import decode, encode, pickled
from prunecore.execution.channel import BROKEN, DONE, HELLO, JOB, READY, SETUP, STOP, Frame
from prunecore.execution.contract import Executor, Job, OnEvent, Session, Setup
from prunecore.execution.crew import CrewSession, LastWords, Rules, Said
from prunecore.execution.devices import worker_devices
from prunecore.execution.in_process import InProcessExecutor
from prunecore.execution.ledger import silent
from prunecore.execution.process import WorkerProcess
from prunecore.execution.settings import ExecutionSettings
from prunecore.execution.slot import Slot
from prunecore.execution.switches import current_switches
from prunecore.execution.worker import Brief

_GRACE = 1.0  # s; for a worker that is leaving to leave its exit code


def local_executor(settings: ExecutionSettings, *, device: str = "auto") -> Executor:
    """The executor that the settings ask for: worker processes, or none for a single worker or no list of them.

    device: where everything happens without a list of workers. Raises ConfigError for devices that this machine lacks.
    """
    if not settings.workers:
        from prunecore.training.devices import resolve_device

        name = "cpu" if device == "cpu" else str(resolve_device(device))
        return InProcessExecutor(name, settings.threads)
    devices = worker_devices(settings.workers)
    if len(devices) == 1:
        return InProcessExecutor(devices[0], settings.threads)
    return LocalExecutor(devices, settings)


@dataclass(frozen=True)
class LocalExecutor:
    """A worker process for each of `devices`, also where there is only one."""

    devices: tuple[str, ...]
    settings: ExecutionSettings = ExecutionSettings()

    def open(self, setup: Setup, on_event: OnEvent | None = None) -> Session:
        """Start the workers, all at once. Raises WorkerError; then none is left."""
        rules = Rules(self.settings.retries, self.settings.starts, self.settings.limits)
        slots = [Slot(number, device, f"{device}#{number}") for number, device in enumerate(self.devices)]
        session = CrewSession(_Processes(setup, self.settings), slots, rules, on_event or silent)
        session.start()
        return session


class _Processes:
    """See `prunecore.execution.crew.Means`."""

    elastic = False

    def __init__(self, setup: Setup, settings: ExecutionSettings) -> None:
        self._setup = pickled(setup)
        self._torch = setup.torch
        self._interval = min(1.0, settings.limits.heartbeat / 4)
        self._switches = current_switches(settings.threads)
        self._at: dict[int, WorkerProcess] = {}

    def hire(self, slot: Slot) -> None:
        brief = Brief(slot.device, os.getpid(), self._interval, self._switches, self._torch)
        self._at[slot.number] = WorkerProcess(slot.name, brief)

    def initialise(self, slot: Slot) -> None:
        self._at[slot.number].channel.send(SETUP, self._setup)

    def hand(self, slot: Slot, job: Job, payload: bytes) -> None:
        self._at[slot.number].channel.send(JOB, encode((job.seed, payload)))

    def listen(self, wait: float) -> Sequence[Said]:
        with selectors.DefaultSelector() as selector:
            for number, process in self._at.items():
                if not process.channel.closed:
                    wish = selectors.EVENT_WRITE if process.channel.pending else 0
                    selector.register(process.channel, selectors.EVENT_READ | wish, number)
            ready = selector.select(wait)
        return [said for key, _ in ready for said in self._hear(key.data)]

    def _hear(self, number: int) -> Iterator[Said]:
        channel = self._at[number].channel
        channel.flush()
        frames, heard = channel.receive()
        if heard:  # a part of a big value is a sign of life too
            yield Said(number, "beat")
        for frame in frames:
            yield from self._said(number, frame)

    def _said(self, number: int, frame: Frame) -> Iterator[Said]:
        if frame.tag == HELLO:
            yield Said(number, "hello")
        elif frame.tag == READY:
            yield Said(number, "ready", about={"pid": self._at[number].pid})
        elif frame.tag == BROKEN:
            yield Said(number, "broken", fault=decode(frame.body))
        elif frame.tag == DONE:
            yield Said(number, "done", made=decode(frame.body))

    def gone(self, slot: Slot) -> bool:
        process = self._at[slot.number]
        return process.channel.closed or process.dead

    def dismiss(self, slot: Slot, *, at_once: bool) -> LastWords:
        process = self._at.pop(slot.number)
        if at_once:
            process.kill()
        return process.reap(_GRACE)

    def end(self, idle: Sequence[Slot], limit: float) -> None:
        """The idle ones have half of the limit to leave by themselves."""
        end = time.monotonic() + limit
        every, leaving = list(self._at.values()), [self._at[slot.number] for slot in idle]
        self._at = {}
        try:
            for process in every:
                if process in leaving:
                    process.channel.send(STOP)
                else:
                    process.kill()
            while any(not process.dead for process in leaving) and time.monotonic() < end - limit / 2:
                time.sleep(0.005)
        finally:
            for process in every:
                process.kill()
            for process in every:
                process.reap(max(0.0, end - time.monotonic()))

    def shortage(self) -> str:
        return "this machine starts no process"
