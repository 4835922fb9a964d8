"""What a run says of how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prunecore import hookimpl
from prunecore.cli.console import Console
from prunecore.config.reader import parse
from prunecore.run.pipeline import run
from tests.run.kills import NETADAPT, SMALL

LEFT = {"seconds": 75.2, "low": 30.0, "high": 3725.0}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"round": 1, "rounds": 3, "size": 1.0, "goal": 0.5}, "round 1 of 3"),
        (
            {"round": 2, "rounds": 3, "size": 0.8, "goal": 0.5, **LEFT},
            "round 2 of 3; time left: about 0h 1m 15s (0h 0m 30s to 1h 2m 5s by the last rounds)",
        ),
        (
            {"round": 1, "rounds": None, "size": 1.0, "goal": 0.5},
            "round 1, size 1.0000 on the way to 0.5000; how long it takes is known when a round is through",
        ),
        (
            {"round": 4, "rounds": None, "size": 0.71234, "goal": 0.5, **LEFT},
            "round 4, size 0.7123 on the way to 0.5000; time left: about 0h 1m 15s (0h 0m 30s to 1h 2m 5s by the last rounds)",
        ),
    ],
)
def test_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], event: Mapping[str, Any], line: str) -> None:
    Console(tmp_path).prune_event({"event": "progress", **event})
    assert capsys.readouterr().out == f"{line}\n"


class Listener:
    def __init__(self) -> None:
        self.progress: list[Mapping[str, Any]] = []

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "progress":
            self.progress.append(event)


def resumed(out: Path, settings: Mapping[str, Any], last: str, times: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """What is told by a run that goes on after the record `last`, where records were made at these times."""
    import zlib

    run(parse(settings), out)
    (out / "result.json").unlink()
    records = [json.loads(line[9:]) for line in (out / "journal.jsonl").read_text().splitlines()]
    names = [r["name"] for r in records]
    kept = [{**r, "at": times.get(r["name"], 0.0)} for r in records[: names.index(last) + 1]]
    bodies = [json.dumps(r, sort_keys=True) for r in kept]
    (out / "journal.jsonl").write_text("".join(f"{zlib.crc32(b.encode()):08x} {b}\n" for b in bodies))
    listener = Listener()
    run(parse(settings), out, listeners=(listener,), resume=True)
    return listener.progress


@pytest.mark.slow
def test_a_search_that_goes_on_knows_its_pace_at_once(tmp_path: Path) -> None:
    first, *more = resumed(
        tmp_path / "run", NETADAPT, "candidate-8/search", {"before": 1000.0, "candidate-8/search": 2000.0}
    )
    assert (first["round"], first["rounds"], first["goal"]) == (2, None, 0.8)
    pace = 1000 / (1 - first["size"])  # one round, 1000 s
    assert first["low"] == first["high"] == first["seconds"]
    assert first["seconds"] == pytest.approx(pace * (first["size"] - 0.8), abs=60)  # less what has passed since
    assert [p["round"] for p in more] == [3, 4, 5]  # then the rest by a plan, and the long-term fine-tune


@pytest.mark.slow
def test_rounds_of_a_schedule_that_goes_on(tmp_path: Path) -> None:
    settings = {**SMALL, "algorithm": "linear", "linear": {"n": 4}, "training": {"epochs": 0}}
    times = {"before": 1000.0, "candidate-1/search": 4000.0, "candidate-2/search": 9000.0}
    first, second = resumed(tmp_path / "run", settings, "candidate-2/search", times)
    assert (first["round"], first["rounds"], second["round"]) == (3, 4, 4)
    found = [first[name] for name in ("low", "seconds", "high")]
    assert found == pytest.approx([6000, 8000, 10000], abs=60)  # two rounds of 3000, 4000 or 5000 s


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"reduce": 0.5, "cuts": True}, "cut 50.0% …\n"),
        ({"reduce": 0.0, "cuts": True}, "align widths …\n"),
        ({"reduce": 0.5, "cuts": False}, ""),
    ],
)
def test_what_a_round_cuts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], event: Mapping[str, Any], line: str
) -> None:
    with Console(tmp_path) as console:
        console.prune_event({"event": "round", "name": "candidate-1", **event})
    assert capsys.readouterr().out == line
