"""Two processes that a launcher started: what one computes, written and said once, and gone on with after a kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prunecore.run.directory import read_weights
from tests.run import group_norm
from tests.run.kills import KILLED, LIMIT, ROOT, Server, assert_same_end, end_of

pytestmark = pytest.mark.slow

Uninterrupted = Callable[[dict[str, Any]], tuple[Path, dict[str, Any]]]
TOLERANCE = 2e-6  # of weights of about 0.3 after 12 steps; found: 3e-8


def settings_of(batch_size: int) -> dict[str, Any]:
    return {
        "model": {"spec": f"python:{group_norm.__file__}:build", "inputs": [1, 1, 8, 8]},
        "data": {"spec": "digits", "size": 8, "augment": False},
        "algorithm": "l2norm",
        "target": {"reduce": 0.3},
        "pretraining": {"epochs": 1, "max_batches": 4, "batch_size": batch_size},
        "training": {"epochs": 2, "max_batches": 4, "batch_size": batch_size},
        "compensation": {"images": 64, "batch_size": 32},
        "evaluation": {"max_batches": 1, "batch_size": 128},
        "control": "none",
        "device": "cpu",
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(settings_of(16)))
    return path


@pytest.fixture(scope="module")
def two(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of a run of two processes that nobody interrupted."""
    where = tmp_path_factory.mktemp("two")
    (where / "two.yaml").write_text(yaml.safe_dump(settings_of(16)))
    ends = server.launched(["run", "-c", str(where / "two.yaml"), "--out", str(where / "run")])
    assert [end.code for end in ends] == [0, 0], ends
    return end_of(where / "run")


def test_torchrun_gives_what_one_process_gives_with_the_same_global_batch(
    server: Server, uninterrupted: Uninterrupted, config: Path, tmp_path: Path, two: dict[str, Any]
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "prunecore.cli.main", "run", "-c", str(config), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=server.environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1
    assert done.stdout.count("certificate: verified") == 1
    assert done.stdout.count("in 0h 0m ") == 1
    assert_same_end(tmp_path / "run", two)

    alone, _ = uninterrupted(settings_of(32))
    ours, theirs = (read_weights(p / "model.safetensors") for p in (tmp_path / "run", alone.parent / "out"))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert apart < TOLERANCE
    assert (tmp_path / "run" / "recipe.json").read_bytes() == (alone.parent / "out" / "recipe.json").read_bytes()
    before = read_weights(alone.parent / "out" / "checkpoints" / "loaded.safetensors")
    whole = [n for n in ours if ours[n].shape == before[n].shape]
    assert whole
    assert min(float((ours[n] - before[n]).abs().max()) for n in whole) > 100 * TOLERANCE  # training did something


@pytest.mark.parametrize(
    "fault",
    [
        ["append", 9, "before"],  # the training is through, its record is not there
        pytest.param(["append", 5, "middle"], marks=pytest.mark.nightly),
        pytest.param(["epoch", 5], marks=pytest.mark.nightly),
        pytest.param(["write", 4, "bytes", 100], marks=pytest.mark.nightly),
    ],
)
def test_killed_and_gone_on_with(
    server: Server, two: dict[str, Any], config: Path, tmp_path: Path, fault: list[Any]
) -> None:
    """Also where the second process is slow to read what the first one writes."""
    run = tmp_path / "run"
    first, second = server.launched(["run", "-c", str(config), "--out", str(run)], fault)
    assert (first.code, second.code) == (KILLED, 1)
    assert second.text == ""
    ends = server.launched(["run", "--resume", str(run)], ["late", 0.3], rank=1)
    assert [end.code for end in ends] == [0, 0], ends
    assert ends[1].text == ""
    assert_same_end(run, two)


@pytest.mark.nightly
def test_the_second_process_may_die(server: Server, two: dict[str, Any], config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = server.launched(["run", "-c", str(config), "--out", str(run)], ["epoch", 4], rank=1)
    assert (first.code, second.code) == (1, KILLED)
    assert (
        first.text.splitlines()[-1] == "Error: another process of this run has ended, see what it says; then --resume"
    )
    ends = server.launched(["run", "--resume", str(run)])
    assert [end.code for end in ends] == [0, 0], ends
    assert_same_end(run, two)


@pytest.mark.nightly
def test_the_second_process_may_be_late_from_the_start(
    server: Server, two: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    ends = server.launched(["run", "-c", str(config), "--out", str(tmp_path / "run")], ["late", 0.5], rank=1)
    assert [end.code for end in ends] == [0, 0], ends
    assert_same_end(tmp_path / "run", two)


def test_a_process_that_does_not_come_is_waited_for_within_the_limit(
    server: Server, config: Path, tmp_path: Path
) -> None:
    """As a stopped one would be; here it comes when the other has left."""
    argv = ["run", "-c", str(config), "--out", str(tmp_path / "run")]
    first, second = server.launched(argv, ["late", 12], rank=1, patience=3)
    assert (first.code, second.code) == (1, 1)
    assert first.text.splitlines()[-1] == (
        "Error: another process of this run has given no sign of life within the limit (0:00:03); end what is left of it, "
        "then --resume"
    )
    assert "Traceback" not in first.text + second.text


def test_what_is_refused_is_said_once(server: Server, config: Path, tmp_path: Path) -> None:
    trials = {**settings_of(16), "algorithm": "try_four", "pretraining": None}
    (tmp_path / "trials.yaml").write_text(yaml.safe_dump(trials))
    argv = ["run", "-c", str(tmp_path / "trials.yaml"), "--out", str(tmp_path / "run")]
    first, second = server.launched(argv)
    assert (first.code, second.code) == (2, 2)
    assert first.text.splitlines()[-1] == (
        "Error: this search starts workers of its own (executor.workers); start it without a launcher of processes"
    )
    assert second.text == ""
    # the directory holds a run by now, which only the first process looks at
    first, second = server.launched(argv)
    assert (first.code, second.code) == (1, 1)
    assert first.text.startswith(f"Error: --out {tmp_path / 'run'}: holds another run; go on with it")
    assert second.text == ""


def test_workers_beside_a_launcher_are_refused_before_anything_is_written(server: Server, tmp_path: Path) -> None:
    settings = {**settings_of(16), "algorithm": "netadapt", "executor": {"workers": ["cpu", "cpu"]}}
    (tmp_path / "workers.yaml").write_text(yaml.safe_dump(settings))
    first, second = server.launched(["run", "-c", str(tmp_path / "workers.yaml"), "--out", str(tmp_path / "run")])
    assert (first.code, second.code) == (2, 2)
    assert first.text.splitlines() == [
        "Error: this search starts workers of its own (executor.workers); start it without a launcher of processes"
    ]
    assert second.text == ""
    assert not (tmp_path / "run").exists()
