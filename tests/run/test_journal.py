"""The journal survives a kill at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunecore.errors import RunDirectoryError
from prunecore.run.journal import Journal

RECORDS = [{"event": "stage", "name": "a", "n": 1}, {"event": "value", "name": "b", "x": [1.5, None]}]


def write(path: Path) -> bytes:
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    return path.read_bytes()


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "j")
    again = Journal(tmp_path / "j")
    assert list(again.records) == RECORDS
    assert again.find("value", "b") == RECORDS[1]
    assert again.find("value", "a") is None


def test_cut_off_at_any_byte_the_whole_records_stay_and_it_can_be_written_on(tmp_path: Path) -> None:
    whole = write(tmp_path / "j")
    first = whole.index(b"\n") + 1
    for length in range(len(whole)):
        path = tmp_path / f"cut-{length}"
        path.write_bytes(whole[:length])
        journal = Journal(path)
        assert list(journal.records) == RECORDS[: 0 if length < first else 1]
        journal.append({"event": "on"})
        assert Journal(path).records[-1] == {"event": "on"}


def test_damage_in_the_middle_is_refused_with_the_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "j")
    (tmp_path / "j").write_bytes(whole.replace(b'"n": 1', b'"n": 2'))
    with pytest.raises(RunDirectoryError, match=r"j:1: the record is damaged"):
        Journal(tmp_path / "j")
