"""Processes that load data and are stopped, stuck or killed: nobody waits for them longer than the limit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunecore.config.training import EvaluationSettings, LoadingSettings, RecalibrationSettings, TrainingSettings
from prunecore.errors import StalledError
from prunecore.training import batches, classification_task, evaluate, fine_tune, recalibrate
from prunecore.types import Task

# torch's handler of a process's death raises wherever it comes, also where torch has just opened a file
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
LINE = r"^the 1 processes that load data gave no batch in 0\.5 s and were ended; where they are only slow, raise `timeout` beside"


class Stopping(Dataset[Any]):
    """Items of 10 classes; the process that reads item `at` gets a signal."""

    def __init__(self, at: int | None, number: signal.Signals = signal.SIGSTOP, count: int = 16) -> None:
        self._at, self._number, self._count = at, number, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self._at:
            os.kill(os.getpid(), self._number)
        return torch.full((1, 4, 4), float(index)), index % 10


def task_of(data: Dataset[Any]) -> Task:
    return classification_task("stopping", data, data, num_classes=10)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 10))


def no_processes_left() -> bool:
    return multiprocessing.active_children() == []


ONE: dict[str, Any] = {"workers": 1, "timeout": 0.5}
STEPS: dict[str, Callable[[Task], object]] = {
    "training": lambda task: fine_tune(
        network(), task, TrainingSettings(epochs=1, batch_size=4, shuffle=False, **ONE), device="cpu"
    ),
    "evaluation": lambda task: evaluate(
        network(), task.validation, task, EvaluationSettings(batch_size=4, **ONE), device="cpu"
    ),
    "recalibration": lambda task: recalibrate(
        network(), task.train, task, RecalibrationSettings(batch_size=4, **ONE), device="cpu"
    ),
    "batches": lambda task: list(batches(task.train, task, batch_size=4, loading=LoadingSettings(**ONE))),
}


def test_a_loader_that_ends_leaves_the_processes_of_another_alone() -> None:
    long, short = (task_of(Stopping(None, count=count)) for count in (64, 8))
    loading = LoadingSettings(workers=1, timeout=30)
    first = iter(batches(short.train, short, batch_size=4, loading=loading))
    second = iter(batches(long.train, long, batch_size=4, loading=loading))
    next(first), next(second)
    assert len(list(first)) == 1
    assert len(list(second)) == 15
    assert no_processes_left()


@pytest.mark.parametrize("step", STEPS)
def test_a_stopped_process_ends_the_step_with_one_line(step: str) -> None:
    started = time.monotonic()
    with pytest.raises(StalledError, match=LINE) as caught:
        STEPS[step](task_of(Stopping(9)))
    assert "\n" not in str(caught.value)
    assert 0.5 <= time.monotonic() - started < 10
    assert no_processes_left()


def test_a_process_that_has_told_of_a_batch_and_stops_before_it_hands_it_over() -> None:
    """Torch's own time limit is not asked there."""
    data = Stopping(9)
    loader = iter(batches(data, task_of(data), batch_size=4, loading=LoadingSettings(**ONE)))
    assert next(loader)[1].tolist() == [0, 1, 2, 3]
    time.sleep(0.5)  # the second is in the queue; it stops in the third
    with pytest.raises(StalledError, match=LINE):
        next(loader)
    assert no_processes_left()


def test_what_is_not_asked_for_to_its_end_leaves_nothing() -> None:
    data = Stopping(None)
    loader = iter(batches(data, task_of(data), batch_size=4, loading=LoadingSettings(workers=2)))
    next(loader)
    assert len(multiprocessing.active_children()) == 2
    del loader
    assert no_processes_left()


def test_an_error_of_the_data_stays_what_it_is() -> None:
    class Broken(Stopping):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index == 6:
                raise KeyError("no such item")
            return super().__getitem__(index)

    data = Broken(None)
    with pytest.raises(KeyError, match="no such item"):
        list(batches(data, task_of(data), batch_size=4, loading=LoadingSettings(workers=2)))
    assert no_processes_left()


def test_a_slow_consumer_is_not_taken_for_a_slow_loader() -> None:
    data = Stopping(None)
    seen = []
    for inputs, _ in batches(data, task_of(data), batch_size=8, loading=LoadingSettings(**ONE)):
        time.sleep(0.8)
        seen += inputs[:, 0, 0, 0].int().tolist()
    assert seen == list(range(16))


def test_values_are_those_of_this_process() -> None:
    data = Stopping(None)
    here, there = (
        [x for x, _ in batches(data, task_of(data), batch_size=3, seed=7, loading=LoadingSettings(workers=w))]
        for w in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.slow
def test_python_ends_although_a_process_is_stopped() -> None:
    code = (
        "from tests.training.test_patience import *\n"
        "loader = iter(batches(Stopping(9), task_of(Stopping(9)), batch_size=4, loading=LoadingSettings(workers=1, timeout=60)))\n"
        "next(loader)\n"
        "time.sleep(0.3)\n"  # by then it is stopped
        "raise KeyboardInterrupt\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert "KeyboardInterrupt" in ended.stderr
