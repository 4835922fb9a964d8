"""Two workers find what one finds, in less time. To be run on a machine with two cores that has nothing else to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunecore.config.reader import parse
from prunecore.run.pipeline import run
from tests.run.kills import NETADAPT, assert_same_end, end_of

REPEATS = 5
MOST = 0.75  # of the time of one worker
# trials are nearly all that it does: the paper's loop, with a step as cheap as a trial
SETTINGS: dict[str, Any] = {
    **NETADAPT,
    "model": {"spec": "demo", "widths": [16, 32, 32]},
    "netadapt": {"exact": True, "delta_crop": 0.25},
    "target": {"reduce": 0.3},
    "retraining": {"epochs": 8, "max_batches": 18, "batch_size": 64},
    "training": {"epochs": 1, "max_batches": 6, "batch_size": 64},
    "evaluation": {"batch_size": 128},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds_of(out: Path, workers: int) -> float:
    """The wall time of a run with so many workers of a thread each; one worker is this process."""
    executor = {"kind": "local", "workers": ["cpu"] * workers, "threads": 1}
    started = time.monotonic()
    run(parse({**SETTINGS, "executor": executor}), out)
    return time.monotonic() - started


@pytest.mark.nightly
def test_two_workers_take_less_time_than_one_for_the_same(tmp_path: Path) -> None:
    shares = []
    for repeat in range(REPEATS):
        one, two = (seconds_of(tmp_path / f"{repeat}-{workers}", workers) for workers in (1, 2))
        shares.append(two / one)
        print(f"{one:.1f} s with one worker, {two:.1f} s with two: {two / one:.2f}")
        config = (tmp_path / f"{repeat}-2" / "config.yaml").read_bytes()
        assert_same_end(tmp_path / f"{repeat}-2", {**end_of(tmp_path / f"{repeat}-1"), "config.yaml": config})
    assert statistics.median(shares) <= MOST, shares
