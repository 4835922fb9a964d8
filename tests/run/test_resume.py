"""What going on with a run promises besides its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunecore import Target, hookimpl
from prunecore.config.reader import parse
from prunecore.errors import RunDirectoryError
from prunecore.files import TEMPORARY
from prunecore.run import directory as files
from prunecore.run.pipeline import run
from prunecore.run.stages import Snapshot, Stages, scratch_file
from prunecore.types import Recipe
from tests.run.kills import SMALL

QUICK: dict[str, Any] = {
    **SMALL,
    "algorithm": "l2norm",
    "criterion": None,
    "training": {"epochs": 0},
    "pretraining": None,
}


class Ear:
    def __init__(self) -> None:
        self.events: list[str] = []

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event["event"])


def test_a_run_killed_between_its_result_and_the_news_of_it_tells_it_when_it_is_resumed(tmp_path: Path) -> None:
    first, again = Ear(), Ear()
    found = run(parse(QUICK), tmp_path / "run", listeners=(first,))
    assert first.events[-1] == "done"
    read = run(parse(QUICK), tmp_path / "run", listeners=(again,), resume=True)
    assert read == json.loads(json.dumps(found))
    assert again.events == ["done"]


def test_a_run_that_another_was_faster_than_is_refused(tmp_path: Path) -> None:
    """Both found the directory free; the other one has begun, and ended, while this one read its data."""
    out = tmp_path / "run"

    class Faster:
        @hookimpl
        def prune_schedule(self, target: Target) -> tuple[float, ...]:
            out.mkdir()
            (out / files.CONFIG).write_text("theirs")
            (out / files.LOCK).touch()
            return (target.reduce,)

    with pytest.raises(RunDirectoryError, match=r"holds another run; go on with it by `prune run --resume"):
        run(parse(QUICK), out, listeners=(Faster(),))
    assert (out / files.CONFIG).read_text() == "theirs"


def test_what_a_killed_process_left_half_written_goes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    theirs = [tmp_path / f".config.yaml.abc{TEMPORARY}", tmp_path / "checkpoints" / f".x.safetensors.abc{TEMPORARY}"]
    others = [tmp_path / ".mine.tmp", tmp_path / "notes.txt", tmp_path / "checkpoints" / "x.safetensors"]
    for path in (*theirs, *others):
        path.touch()
    with files.held(tmp_path, _alone()):
        assert [p.exists() for p in theirs] == [False, False]
        assert all(p.exists() for p in others)


def _alone() -> Any:
    from prunecore.run.processes import World

    return World()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def test_a_stage_is_computed_once_and_read_back_bit_equal(tmp_path: Path) -> None:
    made = [0]

    def compute() -> Snapshot:
        made[0] += 1
        return Snapshot(linear(), data={"n": made[0]})

    def opened() -> Stages:
        return Stages(tmp_path, lambda recipe: nn.Linear(2, 2))

    first = opened().run("a/b", compute)
    again = opened().run("a/b", compute)
    assert (first.data, again.data, made) == ({"n": 1}, {"n": 1}, [1])
    assert all(torch.equal(again.model.state_dict()[k], v) for k, v in linear().state_dict().items())
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["a-b.safetensors"]


def test_the_state_of_a_stage_that_was_cut_off_is_kept_while_finished_ones_are_read_back(tmp_path: Path) -> None:
    stages = Stages(tmp_path, lambda recipe: nn.Linear(2, 2))
    stages.run("a", lambda: Snapshot(linear()))
    state = scratch_file(tmp_path, "training-1")
    state.write_text("epoch 3")
    resumed = Stages(tmp_path, lambda recipe: nn.Linear(2, 2))
    resumed.run("a", lambda: Snapshot(linear()))
    assert state.read_text() == "epoch 3"
    resumed.run("b", lambda: Snapshot(linear()))
    assert not state.exists()


def test_a_checkpoint_that_is_gone_or_damaged_is_one_line(tmp_path: Path) -> None:
    Stages(tmp_path, lambda recipe: nn.Linear(2, 2)).run("a", lambda: Snapshot(linear(), Recipe()))
    path = tmp_path / "checkpoints" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RunDirectoryError, match=r"a\.safetensors: cannot be read: "):
        _ = Stages(tmp_path, lambda recipe: nn.Linear(2, 2)).run("a", lambda: Snapshot(linear())).model
    path.unlink()
    with pytest.raises(RunDirectoryError, match=r"a\.safetensors: cannot be read: "):
        _ = Stages(tmp_path, lambda recipe: nn.Linear(2, 2)).run("a", lambda: Snapshot(linear())).model


def test_a_network_is_read_when_it_is_asked_for_and_again_when_it_was_let_go(tmp_path: Path) -> None:
    stages = Stages(tmp_path, lambda recipe: nn.Linear(2, 2))
    kept = stages.run("a", lambda: Snapshot(linear(), data={"n": 1}))
    first = kept.model
    assert kept() is kept.model is first
    kept.let_go()
    assert kept.model is not first
    assert torch.equal(kept.model.weight, first.weight)
    stages.drop("a")
    again = Stages(tmp_path, lambda recipe: nn.Linear(2, 2)).run("a", lambda: Snapshot(linear()))
    assert again.data == {"n": 1}
    with pytest.raises(RunDirectoryError, match=r"a\.safetensors: cannot be read: "):
        _ = again.model


def test_time_goes_on_where_it_was_recorded(tmp_path: Path) -> None:
    stages = Stages(tmp_path, lambda recipe: nn.Linear(2, 2), started=0.0)
    recorded = stages.value("a", lambda: {})
    assert recorded == {}
    before = Stages(tmp_path, lambda recipe: nn.Linear(2, 2))
    at = before.journal.records[0]["at"]
    assert at <= before.seconds < at + 5
