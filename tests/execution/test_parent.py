"""The parent is killed, interrupted, stopped, or forgets to close: no worker outlives it, and nothing that a worker started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.execution.conftest import gone

Start = Callable[[str], tuple["subprocess.Popen[str]", list[int]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a parent; also the process ids that it prints first."""
    started: list[subprocess.Popen[str]] = []

    def begin(how: str) -> tuple[subprocess.Popen[str], list[int]]:
        parent = subprocess.Popen(
            [sys.executable, "-m", "tests.execution.parents", how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches a whole group: not ours
            # a test runner in the background hands down an ignored SIGINT
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            cwd=Path(__file__).parents[2],
        )
        started.append(parent)
        assert parent.stdout is not None
        return parent, [int(word) for word in parent.stdout.readline().split()]

    yield begin
    for parent in started:
        parent.kill()
        parent.communicate()


@pytest.mark.parametrize("how", ["idle", "busy", "stopped"])
def test_a_parent_that_is_killed(start: Start, how: str) -> None:
    parent, pids = start(how)
    assert len(pids) == (4 if how == "stopped" else 2)
    time.sleep(0.3)  # the jobs are under way
    parent.kill()
    parent.wait()
    assert all(gone(pid, 2.0) for pid in pids)


def test_ctrl_c_ends_the_workers_within_the_limit(start: Start) -> None:
    parent, pids = start("busy")
    time.sleep(0.3)
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=5)
    assert parent.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1  # the parent's
    assert all(gone(pid, 2.0) for pid in pids)


def test_a_session_that_nobody_closes_ends_with_python(start: Start) -> None:
    parent, pids = start("unclosed")
    assert parent.communicate(timeout=5) == ("", "")
    assert parent.returncode == 0
    assert all(gone(pid, 2.0) for pid in pids)


@pytest.mark.nightly
def test_a_parent_that_was_stopped_does_not_blame_its_workers(start: Start) -> None:
    """Longer than the limit of a job, 3 s, and of silence, 1 s: time in which nobody listened does not count."""
    parent, pids = start("frozen")
    time.sleep(0.3)
    parent.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    parent.send_signal(signal.SIGCONT)
    output, errors = parent.communicate(timeout=10)
    assert errors == ""
    attempts, done_by = output.split()[:2], output.split()[2:]
    assert attempts == ["1", "1"]
    assert sorted(int(pid) for pid in done_by) == sorted(pids)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from prunecore.execution import ExecutionSettings, LocalExecutor\n"
        "from tests.execution import jobs\n"
        "LocalExecutor(('cpu',), ExecutionSettings(starts=2)).open(jobs.PLAIN)\n"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert found.returncode == 1
    assert found.stderr.strip().splitlines()[-1] == (
        "prunecore.execution.contract.WorkerError: workers cannot be started, tried 2 times in a row: worker cpu#0 left with exit code 1 "
        "while it started; it may have said why on standard error; a script that starts workers needs `if __name__ == '__main__':`"
    )
