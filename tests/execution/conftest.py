"""Sessions of workers without torch, and a watch on what they leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest


def children() -> list[psutil.Process]:
    """Processes below this one, without the tracker that multiprocessing keeps for good."""
    below = psutil.Process().children(recursive=True)
    return [p for p in below if not _is_tracker(p)]


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether a process ends in time; a zombie has ended."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No process, no zombie, no descriptor."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    yield
    assert children() == []
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # the tracker's, the first time


@pytest.fixture
def events() -> list[Mapping[str, Any]]:
    return []


@pytest.fixture
def told(events: list[Mapping[str, Any]]) -> Callable[[str], list[Mapping[str, Any]]]:
    """The events of a name."""
    return lambda name: [event for event in events if event["event"] == name]
