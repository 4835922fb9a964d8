"""`prune run` with its trials on a Ray cluster ends as it does without one, whatever is lost meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from prunecore import hookimpl
from prunecore.config.reader import parse
from prunecore.run.pipeline import run
from tests.run.kills import LIMIT, NETADAPT, ROOT, assert_same_end, end_of

# what ray leaves open when its processes are told to end is not ours to warn of
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")]

LIMITS = {"heartbeat": 5, "shutdown": 20}
React = Callable[[Mapping[str, Any], list[Mapping[str, Any]]], None]


class Listener:
    """Remembers events and may do something when one comes."""

    def __init__(self, react: React | None = None) -> None:
        self._react = react
        self.events: list[Mapping[str, Any]] = []

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)
        if self._react is not None:
            self._react(event, self.events)

    def told(self, name: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == name]


def settings(**executor: Any) -> dict[str, Any]:
    return {**NETADAPT, "executor": {"kind": "ray", "limits": LIMITS, **executor}}


def carried_out(out: Path, asked: Mapping[str, Any], react: React | None = None, *, resume: bool = False) -> Listener:
    listener = Listener(react)
    run(parse(asked), out, listeners=(listener,), resume=resume)
    return listener


def assert_same(out: Path, reference: Mapping[str, Any]) -> None:
    """The configurations name different executors; everything else is the same, bit for bit."""
    assert_same_end(out, {**reference, "config.yaml": (out / "config.yaml").read_bytes()})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of the run without any worker."""
    out = tmp_path_factory.mktemp("reference") / "run"
    carried_out(out, NETADAPT)
    return end_of(out)


@pytest.fixture(scope="module")
def _local() -> Iterator[None]:
    """One cluster of three CPUs for many tests."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def kill_the_worker_of(job: int) -> React:
    """When it is about to do that job for the first time."""

    def react(event: Mapping[str, Any], events: list[Mapping[str, Any]]) -> None:
        if event["event"] == "job_started" and event["job"] == job and event["attempt"] == 1:
            pids = {e["worker"]: e["pid"] for e in events if e["event"] == "worker_started"}
            os.kill(pids[event["worker"]], signal.SIGKILL)

    return react


@pytest.mark.usefixtures("_local")
class TestOneMachine:
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_as_many_workers_as_one_likes(self, tmp_path: Path, reference: dict[str, Any], workers: int) -> None:
        listener = carried_out(tmp_path / "run", settings(workers=workers))
        assert 1 <= len({e["worker"] for e in listener.told("worker_started")}) <= workers
        assert all(e["worker"].startswith("ray#") for e in listener.told("job_done"))
        assert_same(tmp_path / "run", reference)

    @pytest.mark.parametrize("job", [1, 5])
    def test_a_worker_is_killed_in_a_round(self, tmp_path: Path, reference: dict[str, Any], job: int) -> None:
        listener = carried_out(tmp_path / "run", settings(workers=2), kill_the_worker_of(job))
        assert [e["job"] for e in listener.told("job_retried")] == [job]
        assert_same(tmp_path / "run", reference)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs; the tests add the machines."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_machine_is_lost_in_a_round_and_another_joins(
    cluster: Any, tmp_path: Path, reference: dict[str, Any]
) -> None:
    first = cluster.add_node(num_cpus=1)

    def react(event: Mapping[str, Any], events: list[Mapping[str, Any]]) -> None:
        if event["event"] == "job_started" and event["job"] == 3 and event["attempt"] == 1:
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1)

    asked = settings(address=cluster.address, workers=1, limits={**LIMITS, "start_up": 60})
    listener = carried_out(tmp_path / "run", asked, react)
    assert [e["job"] for e in listener.told("job_retried")] == [3]
    assert len(listener.told("worker_started")) == 2
    assert_same(tmp_path / "run", reference)


def command(*more: str) -> list[str]:
    return [sys.executable, "-m", "prunecore.cli.main", "run", *more]


def test_the_run_itself_is_killed_in_a_round_and_goes_on(
    cluster: Any, tmp_path: Path, reference: dict[str, Any]
) -> None:
    """As users do: a process of its own, which is killed among trials; the next one connects anew."""
    cluster.add_node(num_cpus=2)
    out = tmp_path / "run"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings(address=cluster.address, workers=2)))
    journal = out / "journal.jsonl"
    with subprocess.Popen(
        command("-c", str(tmp_path / "c.yaml"), "--out", str(out)), cwd=ROOT, stdout=subprocess.DEVNULL
    ) as first:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and not (journal.exists() and '"trial-2"' in journal.read_text()):
            time.sleep(0.002)
        first.kill()
    assert not (out / "result.json").exists()
    again = subprocess.run(command("--resume", str(out)), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 0, again.stderr
    assert_same(out, reference)


def test_the_whole_cluster_is_lost_and_the_run_goes_on_without_it(
    cluster: Any, tmp_path: Path, reference: dict[str, Any]
) -> None:
    cluster.add_node(num_cpus=2)
    out = tmp_path / "run"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings(address=cluster.address, workers=2)))
    ours = psutil.Process().children(recursive=True)
    journal = out / "journal.jsonl"
    with subprocess.Popen(
        command("-c", str(tmp_path / "c.yaml"), "--out", str(out)), cwd=ROOT, stdout=subprocess.DEVNULL
    ) as first:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and not (journal.exists() and '"trial-2"' in journal.read_text()):
            time.sleep(0.002)
        for process in psutil.Process().children(recursive=True):
            if process.pid != first.pid and (process in ours or process.name().startswith("ray::")):
                process.kill()
        assert first.wait(LIMIT) != 0
    config = out / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "executor": {"kind": "local"}}))
    again = subprocess.run(command("--resume", str(out)), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 0, again.stderr
    assert_same(out, reference)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings(address="127.0.0.1:1", connect=5)))
    started = time.monotonic()
    ended = subprocess.run(
        command("-c", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: the ray cluster at '127.0.0.1:1' cannot be reached: ")
    assert last.endswith("start one there (`ray start --head`), give another address, or none to start one here")
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - started < 60
