"""Run directories: whole files, one process, clear refusals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
import yaml
from torch import nn

from prunecore.config.reader import parse
from prunecore.errors import RunDirectoryError
from prunecore.files import write_text, write_whole
from prunecore.run import directory as files
from prunecore.run.pipeline import config_text


def test_a_directory_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"holds another run; go on with it by `prune run --resume"):
        files.check(tmp_path, resume=False)


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RunDirectoryError, match="is not empty"):
        files.check(tmp_path, resume=False)


def test_resume_wants_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no config\.yaml there"):
        files.check(tmp_path, resume=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunDirectoryError, match=r"not written, the disk is full; free some space"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_weights_come_back_bit_equal_also_where_they_are_shared(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    files.write_weights(tmp_path / "w", model)
    read = files.read_weights(tmp_path / "w")
    assert sorted(read) == sorted(model.state_dict())
    assert all(torch.equal(read[k], v) for k, v in model.state_dict().items())


def test_a_damaged_weight_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        files.read_weights(tmp_path / "w")


def test_a_second_process_is_refused_and_the_lock_is_dropped(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(RunDirectoryError, match="another process"), files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass


HOLDER = """
import os, pathlib, sys, time
from prunecore.run.directory import locked
with locked(pathlib.Path(sys.argv[1])):
    forked, tell = os.pipe()
    if sys.argv[2:] == ["fork"]:
        if not os.fork():
            os.write(tell, b".")
            time.sleep(60)
        os.read(forked, 1)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def held_elsewhere(path: Path, *how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the directory; with `fork`, one of its own is left when it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *how], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"{process.pid}\n"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_holds_the_directory_refuses_others_at_once_and_killed_it_does_not(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        began = time.monotonic()
        with pytest.raises(RunDirectoryError, match="another process is running here"), files.locked(tmp_path):
            pass
        assert time.monotonic() - began < 1
        assert files.is_locked(tmp_path)
        process.kill()
        process.wait()
        assert not files.is_locked(tmp_path)
        with files.locked(tmp_path):
            assert files.is_locked(tmp_path)


def test_a_fork_that_outlives_the_process_that_held_the_directory_does_not_hold_it(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, "fork") as process:
        assert files.is_locked(tmp_path)
        process.kill()
        process.wait()
        os.killpg(process.pid, 0)  # the other one is still there
        assert not files.is_locked(tmp_path)


def test_looking_whether_a_directory_is_held_refuses_nobody(tmp_path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            files.is_locked(tmp_path)

    (tmp_path / ".lock").touch()
    onlookers = [threading.Thread(target=look) for _ in range(3)]
    for onlooker in onlookers:
        onlooker.start()
    try:
        for _ in range(20):
            with files.locked(tmp_path):
                assert files.is_locked(tmp_path)
    finally:
        stop.set()
        for onlooker in onlookers:
            onlooker.join(5)


def test_a_disk_that_locks_no_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunDirectoryError, match="cannot be locked: Operation not supported; choose another --out"):
        files.locked(tmp_path).__enter__()


def test_the_first_free_directory(tmp_path: Path) -> None:
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("")
    assert files.free_directory(tmp_path / "demo").name == "demo-3"


def test_paths_in_every_plugins_options_mean_the_same_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({}, "early.pt")
    settings = {
        "model": "demo",
        "data": {"kind": "csv", "source": "data.csv"},
        "algorithm": "LotteryTicket",
        "LotteryTicket": {"n": 2, "rewind_to": "early.pt"},
        "trackers": ["legacy-files"],
        "legacy-files": {"log": "logs/log.csv", "start": 3},
    }
    written = yaml.safe_load(config_text(parse(settings)))
    assert written["LotteryTicket"] == {"n": 2, "rewind_to": str(tmp_path / "early.pt")}
    assert written["legacy-files"] == {"log": str(tmp_path / "logs/log.csv"), "start": 3}
    assert written["data"] == {"kind": "csv", "source": str(tmp_path / "data.csv")}
    monkeypatch.chdir("/")
    assert yaml.safe_load(config_text(parse(written))) == written
