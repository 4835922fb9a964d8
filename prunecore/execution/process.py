"""A local worker process as its parent sees it: started, watched, ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prunecore.execution import worker
from prunecore.execution.channel import Channel
from prunecore.execution.crew import LastWords
from prunecore.execution.worker import Brief

# libraries read these when they are loaded, so they must be there before the process is
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerProcess:
    """Started by making it. `channel` is the line to it."""

    def __init__(self, name: str, brief: Brief) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = socket.socketpair()
        self._wreck, wreck = context.Pipe(duplex=False)
        self.channel = Channel(ours)
        self._process = context.Process(target=worker.main, args=(theirs, wreck, brief), name=f"prunecore {name}")
        try:
            with _threads_in_environment(brief.switches.threads):
                self._process.start()
        except BaseException:
            self.channel.close()
            self._wreck.close()
            raise
        finally:
            theirs.close()
            wreck.close()
        self.pid = self._process.pid or 0
        self._ended: LastWords | None = None

    @property
    def dead(self) -> bool:
        """Whether it has ended; it is not reaped, so that its number still belongs to it and its group."""
        if self._ended is not None:
            return True
        if not hasattr(os, "waitid"):
            return self._process.exitcode is not None
        with suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._ended is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # its group is not there before it has made one
        if not self.dead:
            self._process.kill()

    def reap(self, limit: float) -> LastWords:
        """Wait until it has ended, kill it where the limit passes, and give back everything of it. A second call does nothing."""
        if self._ended is None:
            end = time.monotonic() + limit
            while not self.dead and time.monotonic() < end:
                time.sleep(0.005)
            self.kill()
            code, end = self._process.exitcode, max(end, time.monotonic() + 0.5)
            while code is None and time.monotonic() < end:
                time.sleep(0.005)
                code = self._process.exitcode
            self._ended = last_words(code, self._read_wreck())
            self.channel.close()
            if code is not None:
                self._process.close()
        return self._ended

    def _read_wreck(self) -> str:
        os.set_blocking(self._wreck.fileno(), False)
        with self._wreck, suppress(OSError):
            return os.read(self._wreck.fileno(), 65536).decode(errors="replace")
        return ""


def last_words(code: int | None, trace: str) -> LastWords:
    """code: as of `Process.exitcode`; None for a process that is in the kernel's hands and cannot be killed."""
    current = trace.partition("Current thread")[2] or trace
    where = next((line.strip() for line in current.splitlines() if line.startswith("  File ")), "")
    if code is None:
        how = "cannot be killed"
    elif code >= 0:
        how = f"left with exit code {code}"
    else:
        how = f"was ended by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        how += " (by hand, or for want of memory)"
    return LastWords(f"{how}, in {where}" if where else how, trace)


@contextmanager
def _threads_in_environment(threads: int) -> Iterator[None]:
    """For the process that is started meanwhile; this one's environment is afterwards as it was."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
