"""The main function of a local worker process.

It must not outlive its parent, whatever happens to either. It leads a process group, and one process of that group only waits
for the parent to go and then ends the group: also a worker that is stopped, or stuck in C, and what that has started.
(Linux could be asked to kill the worker with its parent, but not what the worker started, and only with the parent's thread.)
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import threading
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from prunecore.execution.attempt import attempt, decode, encode, fault_of, initialised
from prunecore.execution.channel import BEAT, BROKEN, DONE, HELLO, JOB, READY, SETUP, STOP, Line
from prunecore.execution.contract import Setup
from prunecore.execution.switches import Switches, set_switches


@dataclass(frozen=True)
class Brief:
    """What a worker is started with. parent: its process id. interval: seconds from one sign of life to the next."""

    device: str
    parent: int
    interval: float
    switches: Switches
    torch: bool


def main(end: socket.socket, wreck: Connection, brief: Brief) -> None:
    """Serve jobs until told to stop. wreck: where the traceback of a fatal signal goes."""
    _tie_to_parent(brief.parent, wreck.fileno())
    faulthandler.enable(wreck.fileno())
    if brief.torch:
        set_switches(brief.switches)
        _choose(brief.device)
    line = Line(end)
    busy = threading.Event()
    threading.Thread(target=_beat, args=(line, busy, brief), daemon=True).start()
    try:
        line.send(HELLO)
        _serve(line, busy, brief.device)
    except OSError:
        _die()


def _serve(line: Line, busy: threading.Event, device: str) -> None:
    setup: Setup | None = None
    state: Any = None
    while True:
        frame = line.receive()
        if frame is None:
            _die()
        if frame.tag == STOP:
            return
        busy.set()
        if frame.tag == SETUP:
            try:
                setup = decode(frame.body)
                state = initialised(setup, device)
            except BaseException as error:
                line.send(BROKEN, encode(fault_of(error, "initialise the worker")))
                return
            line.send(READY)
        elif frame.tag == JOB and setup is not None:
            seed, payload = decode(frame.body)
            made = attempt(setup, state, payload, seed=seed, device=device)
            del frame, payload
            line.send(DONE, encode(made))
            if made.poisoned:
                return
            del made
        busy.clear()


def _beat(line: Line, busy: threading.Event, brief: Brief) -> None:
    """Signs of life while there is work; an eye on the parent always."""
    pause = threading.Event()
    while not pause.wait(brief.interval):
        if os.getppid() != brief.parent:
            _die()
        if busy.is_set():
            try:
                line.send(BEAT)
            except OSError:
                _die()


def _choose(device: str) -> None:
    """What asks for no GPU by number gets this worker's, and takes no memory of the first one."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device)


def _tie_to_parent(parent: int, wreck: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.setpgid(0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: this one only calls the kernel
        forked = os.fork() == 0
    if forked:
        _watch(wreck)
    if os.getppid() != parent:
        _die()


def _watch(wreck: int) -> NoReturn:
    """Do nothing but end the group when nobody can read `wreck` any more, whatever state the worker is in."""
    try:
        os.closerange(3, wreck)
        os.closerange(wreck + 1, 4096)
        poll = select.poll()
        poll.register(wreck, 0)
        poll.poll()
        _die()
    finally:
        os._exit(1)


def _die() -> NoReturn:
    """At once, with everything that this worker started."""
    os.killpg(0, signal.SIGKILL)
    raise SystemExit(1)  # pragma: no cover - never reached
