"""The files of the old tool, from the events of a run made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from prunecore_plugins.trackers.legacy_files import LegacyFiles
from pydantic import ValidationError
from torch import nn

HEADER = "N,sloi,do,posle,acc,size\n"
RESULT = {"size": 0.197, "val_accuracy": 0.956, "time": "20h 20m 48s", "seconds": 73248.0}


def told(out: Path, *widths: list[tuple[str, int, int]], model: nn.Module | None = None, **options: Any) -> LegacyFiles:
    """A tracker that was told of a run in `out`, one iteration for each list of widths."""
    out.mkdir(parents=True, exist_ok=True)
    tracker = LegacyFiles(LegacyFiles.Options(**options))
    common = {"directory": str(out), "model": model or nn.Linear(2, 3)}
    tracker.prune_event({"event": "loaded", **common})
    for number, iteration in enumerate(widths, 1):
        facts = {"metric": 0.5 + number / 16, "size": 1 - number / 8}
        rows = [{"group": g, "before": b, "after": a} for g, b, a in iteration]
        tracker.prune_event({"event": "accepted", "widths": rows, **facts, **common})
    return tracker


def test_a_line_for_every_layer_and_a_file_for_every_iteration(tmp_path: Path) -> None:
    out = tmp_path / "exp" / "net"
    told(out, [("a.conv", 32, 28), ("b", 16, 8)], [], [("a.conv", 28, 20)])
    assert (tmp_path / "exp" / "net_log.csv").read_text() == (
        f"{HEADER}1,a.conv,32,28,0.5625,0.8750\n1,b,16,8,0.5625,0.8750\n3,a.conv,28,20,0.6875,0.6250\n"
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "it1_acc0.5625_size0.8750.pth",
        "it2_acc0.6250_size0.7500.pth",
        "it3_acc0.6875_size0.6250.pth",
        "orig_model.pth",
    ]


def test_the_summary_holds_three_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = told(tmp_path / "net")
    tracker.prune_event({"event": "done", "result": RESULT, "directory": str(tmp_path / "net")})
    line = "{'size': 0.197, 'val_accuracy': 0.956, 'time': '20h 20m 48s'}\n"
    assert (tmp_path / "net.txt").read_text() == capsys.readouterr().out == line


def test_the_run_is_called_as_its_directory_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path / "net")
    told(Path(), [("a", 2, 1)])
    assert (tmp_path / "net_log.csv").is_file()


def test_a_restart_counts_on_and_keeps_the_lines_before_it(tmp_path: Path) -> None:
    log = tmp_path / "net_log.csv"
    earlier = "1,a,32,28,0.9000,0.9000\n2,b,16,12,0.8900,0.8000\n"
    log.write_text(f"{HEADER}{earlier}3,a,28,20,0.1000,0.7000\n4,b,12,4,0.1000,0.6000\n")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "orig_model.pth").write_bytes(b"of the first run")
    told(tmp_path / "net", [("a", 28, 24)], start=2)
    assert log.read_text() == f"{HEADER}{earlier}3,a,28,24,0.5625,0.8750\n"
    assert (tmp_path / "net" / "it3_acc0.5625_size0.8750.pth").is_file()
    assert (tmp_path / "net" / "orig_model.pth").read_bytes() == b"of the first run"


def test_what_a_run_is_told_again_when_it_is_resumed_leaves_the_same_files(tmp_path: Path) -> None:
    told(tmp_path / "net", [("a", 32, 28)])
    told(tmp_path / "net", [("a", 32, 28)], [("a", 28, 24)])
    once = tmp_path / "once" / "net"
    told(once, [("a", 32, 28)], [("a", 28, 24)])
    assert (tmp_path / "net_log.csv").read_bytes() == (tmp_path / "once" / "net_log.csv").read_bytes()
    assert sorted(p.name for p in once.iterdir()) == sorted(p.name for p in (tmp_path / "net").iterdir())


def test_other_places_may_be_named(tmp_path: Path) -> None:
    log, summary = tmp_path / "logs" / "log.csv", tmp_path / "logs" / "summary"
    tracker = told(tmp_path / "net", [("a,b", 2, 1)], log=log, summary=summary)
    tracker.prune_event({"event": "done", "result": RESULT, "directory": str(tmp_path / "net")})
    assert log.read_text() == f'{HEADER}1,"a,b",2,1,0.5625,0.8750\n'
    assert summary.is_file()
    assert not (tmp_path / "net.txt").exists()
    with pytest.raises(ValidationError):
        LegacyFiles.Options(start=-1)


def test_a_network_that_pickle_cannot_save_is_told_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Linear(2, 3)
    model.scale = lambda x: 2 * x
    told(tmp_path / "net", [("a", 2, 1)], model=model)
    lines = capsys.readouterr().out.splitlines()
    names = ("orig_model.pth", "it1_acc0.5625_size0.8750.pth")
    start = "is not written: the network cannot be saved as a whole module ("
    assert [line.startswith(f"{name} {start}") for name, line in zip(names, lines, strict=True)] == [True, True]
    assert list((tmp_path / "net").iterdir()) == []
    assert (tmp_path / "net_log.csv").read_text() == f"{HEADER}1,a,2,1,0.5625,0.8750\n"


def test_modules_are_saved_as_users_load_them(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    told(tmp_path / "net", [("a", 2, 1)], model=model)
    for path in (tmp_path / "net").iterdir():
        found = torch.load(path, weights_only=False)
        assert type(found) is nn.Linear
        assert torch.equal(found.weight, model.weight)
