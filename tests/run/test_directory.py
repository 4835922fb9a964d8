"""Run directories: whole files, one process, clear refusals."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import nn

from prunecore.errors import RunDirectoryError
from prunecore.files import write_text, write_whole
from prunecore.run import directory as files


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


def test_the_first_free_directory(tmp_path: Path) -> None:
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("")
    assert files.free_directory(tmp_path / "demo").name == "demo-3"
