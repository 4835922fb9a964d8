"""The parent of `kill_driver`: starts runs, kills them, and compares where they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.run import kill_driver, search_plugin
from tests.run.kill_driver import Fault

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
LIMIT = 120.0  # s, on a machine that has other things to do

SMALL: dict[str, Any] = {
    "model": {"spec": "demo", "widths": [4, 8, 8]},
    "data": "digits",
    "criterion": "l2norm",
    "target": {"reduce": 0.3},
    "pretraining": {"epochs": 1, "max_batches": 3, "batch_size": 32},
    "training": {"epochs": 2, "max_batches": 3, "batch_size": 32},
    "retraining": {"epochs": 1, "max_batches": 3, "batch_size": 32},
    "compensation": {"images": 64, "batch_size": 32},
    "recalibration": {"images": 64, "batch_size": 32},
    "evaluation": {"max_batches": 1, "batch_size": 128},
    "control": "none",
    "device": "cpu",
}

NETADAPT: dict[str, Any] = {  # three rounds of trials, then what is left by a plan
    **SMALL,
    "algorithm": "netadapt",
    "netadapt": {"step": 0.08, "blocks": 2, "images": 64, "calibration": 64},
    "target": {"reduce": 0.2},
}


@dataclass(frozen=True)
class Ended:
    """code: as of `subprocess`. text: both outputs. cpu: seconds of the processor that it and its children took."""

    code: int
    text: str
    cpu: float


class Server:
    """`kill_driver` as a server. One run at a time; each is a session of processes of its own."""

    def __init__(self, scratch: Path) -> None:
        path = os.pathsep.join(map(str, [search_plugin.install(scratch / "installed"), ROOT, ROOT / "plugins"]))
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._scratch = scratch
        self.runs = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", kill_driver.__name__],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def warm(self, settings: Mapping[str, Any]) -> None:
        """Import in the server what a run of these settings imports."""
        names = self._scratch / "modules"
        config = self._scratch / "warm.yaml"
        config.write_text(yaml.safe_dump(settings))
        ended = self.run(["run", "-c", str(config), "--out", str(self._scratch / "warm")], modules=str(names))
        assert ended.code == 0, ended.text
        self._ask({"import": [n for n in names.read_text().splitlines() if n != "__main__"]})
        assert self._answer()["threads"] == 1, "a fork would lose threads"

    def run(self, argv: Sequence[str], fault: Fault | None = None, **more: Any) -> Ended:
        """`prune ARGV` to its end, or to its fault."""
        with self.started(argv, fault, **more) as (_, end):
            return end()

    @contextmanager
    def started(self, argv: Sequence[str], fault: Fault | None = None, **more: Any) -> Iterator[Any]:
        """The pid of `prune ARGV`, and a function that waits for its end; nothing of it is left afterwards."""
        log = self._scratch / "log"
        log.unlink(missing_ok=True)
        self.runs += 1
        self._ask({"argv": list(argv), "cwd": str(self._scratch), "log": str(log), "fault": fault, **more})
        pid: int = self._answer()["pid"]

        def end() -> Ended:
            (code, cpu), *_ = self._answer()["ends"]
            return Ended(code, log.read_text() if log.exists() else "", cpu)

        try:
            yield pid, end
        finally:
            for left in session(pid):
                left.kill()

    def launched(self, argv: Sequence[str], fault: Fault | None = None, *, rank: int = 0, **more: Any) -> list[Ended]:
        """`prune ARGV` in two processes, as a launcher starts them; one of them meets the fault."""
        logs = [self._scratch / "log", self._scratch / "log.1"]
        request = {"argv": list(argv), "cwd": str(self._scratch), "log": str(logs[0]), "fault": fault, "rank": rank}
        self._ask({**request, "processes": 2, "port": free_port(), **more})
        pid = self._answer()["pid"]
        ends = self._answer()["ends"]
        assert session(pid) == []
        return [Ended(code, log.read_text(), cpu) for (code, cpu), log in zip(ends, logs, strict=True)]

    def close(self) -> None:
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # a run hangs
            for left in psutil.Process(self._process.pid).children(recursive=True):
                left.kill()
            self._process.kill()
            self._process.wait()

    def _ask(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        import select

        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT)
        assert ready, f"no answer in {LIMIT:g} s"
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def session(pid: int) -> list[psutil.Process]:
    """Processes of the session that `pid` leads or has led, zombies left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether nothing of the session of `pid` is left, in time."""
    end = time.monotonic() + within
    while session(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------- where a run ended

VARIES = {"at", "seconds", "time", "attempts"}  # what may differ between a run that was killed and one that was not


def plain(value: Any) -> Any:
    """`value` without what hangs on the clock."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items() if key not in VARIES}
    return [plain(v) for v in value] if isinstance(value, list) else value


def journal_of(run: Path) -> dict[str, Any]:
    """Record by event and name; each must be there once."""
    records = [json.loads(line[9:]) for line in (run / "journal.jsonl").read_text().splitlines()]
    named = {f"{r['event']} {r['name']}": plain(r) for r in records}
    assert len(named) == len(records), "a stage is recorded twice"
    return named


def end_of(run: Path) -> dict[str, Any]:
    """All that a run leaves behind, so that two ends can be compared with `==`."""
    every = {str(p.relative_to(run)): p for p in run.rglob("*") if p.is_file()}
    whole = {name: path.read_bytes() for name, path in every.items()}
    del whole["journal.jsonl"], whole["result.json"]
    whole["report.html"] = whole["report.html"][-8:]  # it tells how long things took
    return {**whole, "result": plain(json.loads(every["result.json"].read_bytes())), **journal_of(run)}


def assert_same_end(run: Path, reference: Mapping[str, Any]) -> None:
    """Bit for bit, and no file more or less."""
    end = end_of(run)
    assert sorted(end) == sorted(reference)
    differ = [name for name in end if end[name] != reference[name]]
    assert not differ, f"differ: {differ}"
