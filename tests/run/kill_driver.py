"""`prune` in processes that end themselves by SIGKILL, or meet a full disk, at a chosen point.

    python -m tests.run.kill_driver                 a server: one JSON request a line, a forked process each
    python -m tests.run.kill_driver '{"argv": …}'   one request, in this process

The server has imported what a run imports (that takes longer than the runs of these tests) and computed nothing.
A request: argv (of `prune`), cwd, log (a file for both outputs), fault (see FAULTS), or none. Answers: `{"pid": …}` at once,
then `{"ends": [[code, seconds], …]}`, the code as of `subprocess`, the seconds of the processor. The product knows nothing of
this: what is wrapped here is wrapped in the process that dies.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, BinaryIO, NoReturn

Fault = dict[str, Any]


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def no_space() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---------------------------------------------------------------- faults


def at_append(number: int, when: str) -> None:
    """Die before, in the middle of (half of the bytes are there) or after the `number`-th line of the journal."""
    from prunecore.run.journal import Journal

    append, count = Journal.append, iter(range(1, sys.maxsize))

    def dying(self: Journal, record: Any) -> None:
        if next(count) != number:
            append(self, record)
            return
        if when == "before":
            die()
        path = self._path
        before = path.stat().st_size if path.exists() else 0
        append(self, record)
        if when == "middle":
            os.truncate(path, before + (path.stat().st_size - before) // 2)
        die()

    Journal.append = dying  # type: ignore[method-assign]


def at_write(number: int, when: str, size: int = 0) -> None:
    """Die in the `number`-th whole file: after `size` bytes, between fsync and rename (`synced`), or after it (`renamed`)."""

    class Dying:
        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def write(self, data: Any) -> int:
            self._file.write(memoryview(data).cast("B")[:size])
            self._file.flush()
            die()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *fault: object) -> None:
            self._file.close()

    def opening(count: int, file: BinaryIO) -> Any:
        return Dying(file) if count == number and when == "bytes" else file

    def replacing(count: int, replace: Callable[[], None]) -> None:
        if count == number and when == "synced":
            die()
        replace()
        if count == number and when == "renamed":
            die()

    _wrap_files(opening, replacing)


def at_epoch(number: int) -> None:
    """Die at the end of the `number`-th epoch of training, before its state is written."""
    from prunecore.training.loop import _Training

    run_epoch, count = _Training.run_epoch, iter(range(1, sys.maxsize))

    def dying(self: Any) -> Any:
        epoch = run_epoch(self)
        if next(count) == number:
            die()
        return epoch

    _Training.run_epoch = dying  # type: ignore[method-assign]


def full(number: int, what: str) -> None:
    """From the `number`-th whole file (`what`: file) or journal line (line) on there is no space."""
    from prunecore.run import journal

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def write(self, data: Any) -> int:
            self._file.write(memoryview(data).cast("B")[: len(data) // 2])
            no_space()

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *fault: object) -> None:
            self._file.close()

    if what == "file":
        _wrap_files(lambda count, file: Full(file) if count >= number else file, lambda count, replace: replace())
        return
    count = iter(range(1, sys.maxsize))

    def fsync(descriptor: int) -> None:
        if next(count) >= number:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 7)  # the last block was not to be had
            no_space()
        os.fsync(descriptor)

    journal.os = types.SimpleNamespace(**{**vars(os), "fsync": fsync})  # type: ignore[attr-defined]


def limit(size: int) -> None:
    """No file may grow beyond `size` bytes: the kernel writes what fits and refuses the rest."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def late(seconds: float) -> None:
    """Read what other processes write later than they, as on a machine that is busy."""
    from prunecore.run.journal import Journal
    from prunecore.training import loop

    begin, read_state = Journal.__init__, loop.read_state

    def begun_late(self: Journal, path: Any, **more: Any) -> None:
        time.sleep(seconds)
        begin(self, path, **more)

    def read_late(path: Any) -> Any:
        time.sleep(seconds)
        return read_state(path)

    Journal.__init__ = begun_late  # type: ignore[method-assign]
    loop.read_state = read_late


FAULTS: dict[str, Callable[..., None]] = {
    "append": at_append,
    "write": at_write,
    "epoch": at_epoch,
    "full": full,
    "limit": limit,
    "late": late,
}


def _wrap_files(opening: Callable[[int, BinaryIO], Any], replacing: Callable[[int, Callable[[], None]], None]) -> None:
    """Put the functions between `write_whole` and the operating system; both are told which whole file it is, from 1."""
    from prunecore import files

    count = 0

    def fdopen(descriptor: int, mode: str) -> Any:
        nonlocal count
        count += 1
        return opening(count, os.fdopen(descriptor, mode))  # type: ignore[arg-type]

    def replace(source: Any, target: Any) -> None:
        replacing(count, lambda: os.replace(source, target))

    files.os = types.SimpleNamespace(**{**vars(os), "fdopen": fdopen, "replace": replace})  # type: ignore[attr-defined]


# ---------------------------------------------------------------- requests


def serve(request: dict[str, Any]) -> NoReturn:
    """Do what is asked, as `prune` would, and leave."""
    from prunecore.cli.main import main

    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request.get("fault"):
        name, *arguments = request["fault"]
        FAULTS[name](*arguments)
    if "patience" in request:
        from prunecore.run import processes

        processes.LIMIT = timedelta(seconds=request["patience"])
    sys.argv = ["prune", *request["argv"]]
    code = 1
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        if "modules" in request:
            with open(request["modules"], "w") as file:
                file.write("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
    if "modules" in request:
        os._exit(code)
    sys.exit(code)


def answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def forked(request: dict[str, Any]) -> None:
    """In a process of its own; as a launcher would where `processes` are asked for, of which that of `rank` meets the fault."""
    count = request.get("processes", 1)
    pids = []
    for rank in range(count):
        pids.append(os.fork())
        if not pids[-1]:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if count > 1:
                address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": request["port"], "WORLD_SIZE": count}
                os.environ.update({k: str(v) for k, v in {**address, "RANK": rank, "LOCAL_RANK": rank}.items()})
            log = f"{request['log']}.{rank}" if rank else request["log"]
            serve({**request, "log": log, "fault": request.get("fault") if rank == request.get("rank", 0) else None})
    answer({"pid": pids[0]})
    answer({"ends": [ended(pid) for pid in pids]})


def ended(pid: int) -> tuple[int, float]:
    """Its code, and the seconds of the processor that it took, when it has ended."""
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def server() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "import" in request:
            for name in request["import"]:
                with suppress(Exception):
                    importlib.import_module(name)
            answer({"threads": len(os.listdir("/proc/self/task"))})
        else:
            forked(request)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(json.loads(sys.argv[1]))
    server()
