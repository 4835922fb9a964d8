"""`prune runs`: what is there, whatever state it is in; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunecore.run import directory as files
from prunecore.run.journal import Journal
from tests.cli.test_commands import prune

CONFIG = "algorithm: fpgm\nmodel: {kind: python, source: 'net.py:build'}\n"
RESULT = {"size": 0.5012, "val_accuracy": 0.875, "time": "0h 1m 5s", "more": None}


def run_at(path: Path, *, stages: int = 2, config: str = CONFIG) -> Path:
    """A run that was stopped after some stages."""
    path.mkdir(parents=True)
    (path / files.CONFIG).write_text(config)
    (path / files.LOCK).touch()
    journal = Journal(path / files.JOURNAL)
    for number in range(1, stages + 1):
        journal.append({"event": "stage", "name": f"stage-{number}", "at": 61.0 * number})
    return path


def listed(where: Path) -> dict[str, dict[str, Any]]:
    done = prune("runs", str(where), "--json", cwd=where)
    assert done.returncode == 0, done.stderr
    return {str(Path(r["run"]).relative_to(where)): r for r in json.loads(done.stdout)}


def test_stopped_running_and_finished_ones(tmp_path: Path) -> None:
    run_at(tmp_path / "a")
    run_at(tmp_path / "b")
    (run_at(tmp_path / "deep" / "c") / files.RESULT).write_text(json.dumps(RESULT))
    with files.locked(tmp_path / "b"):
        found = listed(tmp_path)
    assert {name: r["state"] for name, r in found.items()} == {"a": "stopped", "b": "running", "deep/c": "finished"}
    assert (found["a"]["stage"], found["a"]["time"]) == ("stage-2", "0h 2m 2s")
    assert (found["a"]["algorithm"], found["a"]["model"], found["a"]["size"]) == ("fpgm", "python:net.py:build", None)
    assert (found["deep/c"]["size"], found["deep/c"]["val_accuracy"]) == (0.5012, 0.875)
    assert found["deep/c"]["time"] == "0h 1m 5s"
    table = [line.split() for line in prune("runs", cwd=tmp_path).stdout.splitlines()]
    assert table[0] == ["run", "state", "algorithm", "model", "size", "metric", "time", "last", "stage"]
    assert [
        "deep/c",
        "finished",
        "fpgm",
        "python:net.py:build",
        "0.5012",
        "0.8750",
        "0h",
        "1m",
        "5s",
        "stage-2",
    ] in table


def test_a_run_killed_before_its_first_stage_or_in_a_line_of_its_journal(tmp_path: Path) -> None:
    run_at(tmp_path / "early", stages=0)
    torn = run_at(tmp_path / "torn", stages=2) / files.JOURNAL
    torn.write_bytes(torn.read_bytes()[:-9])
    whole = torn.read_bytes()
    found = listed(tmp_path)
    assert (found["early"]["state"], found["early"]["stage"], found["early"]["time"]) == ("stopped", None, None)
    assert (found["torn"]["state"], found["torn"]["stage"]) == ("stopped", "stage-1")
    assert torn.read_bytes() == whole  # looking at a run changes nothing


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            files.JOURNAL,
            b"00000000 {}\n00000000 {}\n",
            "journal.jsonl:1: the record is damaged; the run cannot be resumed",
        ),
        (files.RESULT, b"{", "Expecting property name"),
        (files.RESULT, b"[1]", "list indices must be integers"),
        (files.RESULT, b'{"size": 1}', "'val_accuracy'"),
        (files.CONFIG, b"a: [", "config.yaml:1:5: not valid YAML"),
        (files.CONFIG, b"\xff", "config.yaml: cannot be read"),
        (files.CONFIG, b"model: 3\n", "1 validation error for Spec"),
    ],
)
def test_a_damaged_one_is_told_in_one_line_and_the_others_are_listed(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (run_at(tmp_path / "bad") / name).write_bytes(content)
    run_at(tmp_path / "good", stages=1)
    found = listed(tmp_path)
    assert found["good"]["state"] == "stopped"
    assert found["bad"]["state"].startswith("damaged: ")
    assert why in found["bad"]["state"]
    assert "\n" not in found["bad"]["state"]


def test_a_journal_that_cannot_be_read(tmp_path: Path) -> None:
    bad = run_at(tmp_path / "bad", stages=1)
    (bad / files.JOURNAL).unlink()
    (bad / files.JOURNAL).mkdir()
    assert "Is a directory" in listed(tmp_path)["bad"]["state"]


def test_configurations_of_other_tools_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / files.CONFIG).write_text("model: resnet\n")
    assert listed(tmp_path) == {}
    assert prune("runs", cwd=tmp_path).stdout == "no runs in .\n"
    run_at(tmp_path / "short", config="algorithm: agp\nmodel: demo\n")
    assert listed(tmp_path)["short"]["model"] == "demo"
