"""A run that was killed, at any moment and as often as one likes, ends as one that was not: bit for bit, and with the same files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.run.kill_driver import Fault
from tests.run.kills import KILLED, LIMIT, NETADAPT, ROOT, SMALL, Server, assert_same_end, end_of, gone, session

Uninterrupted = Callable[[dict[str, Any]], tuple[Path, dict[str, Any]]]

LINEAR = {**SMALL, "algorithm": "linear", "linear": {"n": 2}, "distillation": {}}
AGP = {**SMALL, "algorithm": "agp", "agp": {"n": 2}, "criterion": "taylor"}
LOTTERY = {**SMALL, "algorithm": "lottery_ticket", "lottery_ticket": {"n": 2}, "control": "cut"}
TRIALS = {**SMALL, "algorithm": "try_four"}
NETADAPT_WORKERS = {
    **NETADAPT,
    "executor": {"kind": "local", "workers": ["cpu", "cpu"], "limits": {"heartbeat": 5}},
}
WORKERS = {**TRIALS, "executor": {"kind": "local", "workers": ["cpu", "cpu"], "limits": {"heartbeat": 2}}}
LINES = 20  # of the journal of the first


def started(server: Server, config: Path, run: Path, fault: Fault | None) -> int:
    """Start a run, or go on with it; its exit code."""
    resumable = (run / "config.yaml").exists()
    argv = ["run", "--resume", str(run)] if resumable else ["run", "-c", str(config), "--out", str(run)]
    ended = server.run(argv, fault)
    assert ended.code in {0, KILLED}, ended.text
    return ended.code


def journey(server: Server, config: Path, run: Path, faults: Iterator[Fault]) -> int:
    """Start a run again and again, each time with the next fault, until it ends by itself; how often it was killed."""
    kills = 0
    while started(server, config, run, next(faults, None)) == KILLED:
        kills += 1
    return kills


# ---------------------------------------------------------------- in the default suite


@pytest.mark.slow
def test_killed_many_times_in_a_row(server: Server, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    """In the middle of a line of the journal, in a checkpoint, between two epochs, before and after a rename."""
    config, reference = uninterrupted(LINEAR)
    faults: list[Fault] = [
        ["write", 1, "synced"],  # config.yaml, which is then not there
        ["append", 3, "middle"],
        ["write", 2, "bytes", 5000],
        ["epoch", 2],
        ["write", 2, "renamed"],
    ]
    assert journey(server, config, tmp_path / "run", iter(faults)) == len(faults)
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.slow
def test_killed_among_trials(server: Server, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    config, reference = uninterrupted(TRIALS)
    run = tmp_path / "run"
    assert started(server, config, run, ["append", 7, "middle"]) == KILLED
    *whole, torn = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    assert ["trial-" in line for line in whole[-3:]] == [False, True, True]
    assert not torn.endswith("\n")
    assert started(server, config, run, None) == 0
    assert_same_end(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("line", [8, 17])
def test_killed_in_a_round_of_netadapt(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, line: int) -> None:
    """Among the trials of the first round, and of the second."""
    config, reference = uninterrupted(NETADAPT)
    assert journey(server, config, tmp_path / "run", iter([["append", line, "middle"]])) == 1
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.slow
def test_a_worker_is_killed_in_a_round_of_netadapt(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    _, reference = uninterrupted(NETADAPT)
    end_with_a_worker_lost(server, tmp_path, reference, through=2)


def end_with_a_worker_lost(
    server: Server, where: Path, reference: dict[str, Any], *, through: int, number: int = signal.SIGKILL
) -> None:
    """A run of netadapt with two workers, one of which gets a signal when so many trials are recorded, ends as without workers."""
    config, run = where / "c.yaml", where / "run"
    config.write_text(yaml.safe_dump(NETADAPT_WORKERS))
    journal = run / "journal.jsonl"
    with server.started(["run", "-c", str(config), "--out", str(run)]) as (pid, end):
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and not (
            journal.exists() and journal.read_text().count('"trial-') >= through
        ):
            time.sleep(0.002)
        workers = [p for p in psutil.Process(pid).children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 2
        os.kill(workers[through % 2].pid, number)
        ended = end()
        assert ended.code == 0, ended.text
        assert gone(pid)
    assert "was lost" in ended.text
    assert_same_end(run, {**reference, "config.yaml": (run / "config.yaml").read_bytes()})


def last_fine_tune(reference: dict[str, Any]) -> int:
    """The line of the journal, from 1."""
    names = [name for name in reference if name.startswith(("stage ", "value "))]
    return max(line for line, name in enumerate(names, 1) if name.endswith("/fine-tune"))


@pytest.mark.slow
def test_killed_when_the_last_training_is_recorded_its_last_state_does_not_stay_behind(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    config, reference = uninterrupted(LINEAR)
    run = tmp_path / "run"
    assert started(server, config, run, ["append", last_fine_tune(reference), "after"]) == KILLED
    assert len(list((run / "checkpoints").glob("*.partial.pt"))) == 1
    assert started(server, config, run, None) == 0
    assert_same_end(run, reference)
    again = end_of(run)
    assert started(server, config, run, None) == 0  # a finished run is only shown
    assert end_of(run) == again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            ["full", 7, "line"],
            "journal.jsonl: cannot be written: No space left on device; free some space, then --resume",
        ),
        pytest.param(
            ["full", 6, "file"],
            ".safetensors: not written, the disk is full; free some space or choose another --out; a run goes on",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            ["limit", 30_000],
            ".partial.pt: not written, File too large; free some space or choose another --out; a run goes on",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_without_space_a_run_ends_with_one_line_and_goes_on_when_there_is_some(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, fault: Fault, message: str
) -> None:
    config, reference = uninterrupted(LINEAR)
    run = tmp_path / "run"
    ended = server.run(["run", "-c", str(config), "--out", str(run)], fault)
    assert ended.code == 1
    line = ended.text.splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert "Traceback" not in ended.text
    assert [p for p in run.rglob(".*") if p.name != ".lock"] == []
    assert started(server, config, run, None) == 0
    assert_same_end(run, reference)


@pytest.mark.nightly
def test_what_a_killed_run_leaves_running_does_not_hold_its_directory(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    """Processes that load data are forks of the run, and outlive it for seconds."""
    training = {**LINEAR["training"], "workers": 1, "max_batches": 30}
    config, reference = uninterrupted({**LINEAR, "training": training, "pretraining": None})
    run = tmp_path / "run"
    with server.started(["run", "-c", str(config), "--out", str(run)]) as (pid, end):
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and len(session(pid)) < 2:
            time.sleep(0.001)
        loaders = psutil.Process(pid).children()
        while time.monotonic() < deadline and str(run / ".lock") in [f.path for f in loaders[0].open_files()]:
            time.sleep(0.001)
        loaders[0].suspend()  # it would notice after a while, and leave
        os.kill(pid, signal.SIGKILL)
        assert end().code == KILLED
        assert loaders[0].is_running()
        assert started(server, config, run, None) == 0
    assert_same_end(run, reference)


# ---------------------------------------------------------------- nightly


@pytest.mark.nightly
@pytest.mark.parametrize("line", range(1, LINES + 1))
def test_killed_after_every_line(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, line: int) -> None:
    config, reference = uninterrupted(LINEAR)
    assert journey(server, config, tmp_path / "run", iter([["append", line, "after"]])) == 1
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.nightly
@pytest.mark.parametrize("settings", [LINEAR, AGP, LOTTERY, TRIALS], ids=["linear", "agp", "lottery", "trials"])
@pytest.mark.parametrize("when", ["before", "middle", "after"])
def test_killed_at_every_line_in_turn(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, settings: dict[str, Any], when: str
) -> None:
    """Each process writes one line (or, killed `before`, one and almost another)."""
    config, reference = uninterrupted(settings)
    at = 1 if when == "after" else 2

    def faults() -> Iterator[Fault]:
        while True:
            yield ["append", at, when]

    lines = sum(name.startswith(("stage ", "value ")) for name in reference)
    assert journey(server, config, tmp_path / "run", faults()) == (lines if when == "after" else lines - 1)
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.nightly
@pytest.mark.parametrize("when", [("bytes", 0), ("bytes", 4000), ("synced",), ("renamed",)])
def test_killed_in_every_file_in_turn(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, when: tuple[Any, ...]
) -> None:
    config, reference = uninterrupted(LINEAR)

    def faults() -> Iterator[Fault]:
        yield ["write", 1, *when]
        while True:
            yield ["write", 2, *when]

    assert journey(server, config, tmp_path / "run", faults()) > 10
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(1, 20))
@pytest.mark.parametrize("when", [("bytes", 1000), ("synced",), ("renamed",)])
def test_killed_in_every_file(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, number: int, when: tuple[Any, ...]
) -> None:
    config, reference = uninterrupted(LINEAR)
    assert journey(server, config, tmp_path / "run", iter([["write", number, *when]])) == 1
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("settings", [LINEAR, LOTTERY], ids=["linear", "lottery"])
def test_killed_after_every_epoch(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, number: int, settings: dict[str, Any]
) -> None:
    """The first epoch but one is the first of a fine-tune: before it there are one of pretraining and two timed ones."""
    config, reference = uninterrupted(settings)
    assert journey(server, config, tmp_path / "run", iter([["epoch", number]])) == 1
    assert_same_end(tmp_path / "run", reference)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_instants(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, seed: int) -> None:
    """Ten times each; by processor time, since the machine may have other things to do."""
    draws = random.Random(seed)
    settings = [LINEAR, AGP, LOTTERY, TRIALS][seed]
    config, reference = uninterrupted(settings)
    kills = runs = 0
    while kills < 10:
        runs += 1
        run = tmp_path / f"run-{runs}"
        while killed_at(server, config, run, draws.uniform(0.02, 2.5)):
            kills += 1
        assert_same_end(run, reference)


def killed_at(server: Server, config: Path, run: Path, seconds: float) -> bool:
    """Start a run, or go on with it, and kill it when it has taken so many seconds of the processor; False if it was through."""
    resumable = (run / "config.yaml").exists()
    argv = ["run", "--resume", str(run)] if resumable else ["run", "-c", str(config), "--out", str(run)]
    with server.started(argv) as (pid, end):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while process.status() != psutil.STATUS_ZOMBIE and sum(process.cpu_times()[:2]) < seconds:
                time.sleep(0.001)
            process.kill()
        ended = end()
    assert ended.code in {0, KILLED}, ended.text
    return bool(ended.code == KILLED)


@pytest.mark.nightly
def test_a_fresh_interpreter_goes_on_from_what_another_left(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    """As users do: nothing is shared with the process that was killed but the directory."""
    config, reference = uninterrupted(LINEAR)
    run = tmp_path / "run"
    assert started(server, config, run, ["epoch", 6]) == KILLED
    command = [sys.executable, "-m", "prunecore.cli.main", "run", "--resume", str(run)]
    done = subprocess.run(command, cwd=ROOT, env=server.environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert_same_end(run, reference)


# ---------------------------------------------------------------- workers


@pytest.mark.nightly
@pytest.mark.parametrize("line", [4, 5, 7])
def test_workers_end_with_a_run_that_is_killed(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, line: int
) -> None:
    """While they start, at the first outcome, at the last but one; what goes on has no workers, which makes no difference."""
    _, reference = uninterrupted(TRIALS)
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(WORKERS))
    with server.started(["run", "-c", str(config), "--out", str(run)], ["append", line, "after"]) as (pid, end):
        assert end().code == KILLED
        assert gone(pid)
    settings = run / "config.yaml"
    settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "executor": {"kind": "local"}}))
    assert started(server, config, run, None) == 0
    for name in ("config.yaml",):
        reference = {**reference, name: (run / name).read_bytes()}
    assert_same_end(run, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_stopped_makes_no_difference(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, number: signal.Signals
) -> None:
    _, reference = uninterrupted(TRIALS)
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(WORKERS))
    journal = run / "journal.jsonl"
    with server.started(["run", "-c", str(config), "--out", str(run)]) as (pid, end):
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and not (journal.exists() and "trial-1" in journal.read_text()):
            time.sleep(0.005)
        workers = [p for p in psutil.Process(pid).children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 2
        os.kill(workers[0].pid, number)
        ended = end()
        assert ended.code == 0, ended.text
        assert gone(pid)
    reference = {**reference, "config.yaml": (run / "config.yaml").read_bytes()}
    assert_same_end(run, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize(
    "through", [1, 4, 8, 9, 12]
)  # of 7, 4 and 3 trials in three rounds: both workers have more to do
def test_a_worker_is_lost_anywhere_in_the_rounds_of_netadapt(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, through: int, number: signal.Signals
) -> None:
    _, reference = uninterrupted(NETADAPT)
    end_with_a_worker_lost(server, tmp_path, reference, through=through, number=number)


@pytest.mark.nightly
@pytest.mark.parametrize("line", [5, 7, 9, 11, 13, 14, 22, 24, 26, 28])
def test_a_run_of_netadapt_with_workers_is_killed_and_goes_on_with_others(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, line: int
) -> None:
    """No worker outlives the run; the next one has its own."""
    _, reference = uninterrupted(NETADAPT)
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(NETADAPT_WORKERS))
    with server.started(["run", "-c", str(config), "--out", str(run)], ["append", line, "after"]) as (pid, end):
        assert end().code == KILLED
        assert gone(pid)
    assert started(server, config, run, None) == 0
    assert_same_end(run, {**reference, "config.yaml": (run / "config.yaml").read_bytes()})


# ---------------------------------------------------------------- space


@contextlib.contextmanager
def small_disk(where: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """A disk of that size at `where`, and a function that gives it another; skipped where this user may mount none."""
    mount = shutil.which("mount")
    where.mkdir()
    size = f"size={kilobytes}k"
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", size, "tmpfs", str(where)], check=False).returncode:
        yield lambda _: None
        return
    try:
        yield lambda more: subprocess.run([mount, "-o", f"remount,size={more}k", str(where)], check=True) and None
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.mark.nightly
@pytest.mark.parametrize("kilobytes", [4, 12, 24, 40, 56, 80, 100, 140, 180])
def test_a_disk_that_is_full(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, kilobytes: int) -> None:
    """Where none can be mounted, the largest file may not grow beyond that size."""
    config, reference = uninterrupted(LINEAR)
    disk = tmp_path / "disk"
    with small_disk(disk, kilobytes) as resized:
        run = disk / "run"
        mounted = os.path.ismount(disk)
        fault: Fault | None = None if mounted else ["limit", kilobytes * 300]
        ended = server.run(["run", "-c", str(config), "--out", str(run)], fault)
        assert ended.code == 1, ended.text
        assert ended.text.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in ended.text
        assert "space" in ended.text.splitlines()[-1]
        resized(4000)
        assert started(server, config, run, None) == 0
        assert_same_end(run, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["file", "line"])
@pytest.mark.parametrize("number", range(1, 19))
def test_space_ends_at_any_file_or_line(
    server: Server, uninterrupted: Uninterrupted, tmp_path: Path, number: int, what: str
) -> None:
    config, reference = uninterrupted(LINEAR)
    run = tmp_path / "run"
    ended = server.run(["run", "-c", str(config), "--out", str(run)], ["full", number, what])
    assert ended.code == 1, ended.text
    assert ended.text.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in ended.text
    assert started(server, config, run, None) == 0
    assert_same_end(run, reference)
