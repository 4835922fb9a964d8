"""Workers on a Ray cluster of this machine: the same values as here, and losses of workers and machines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prunecore_plugins.executors.ray import RayExecutor, answered

from prunecore.execution import InProcessExecutor, Job, Limits, Session, Setup, WorkerError
from tests.execution import jobs

# what ray leaves open when its processes are told to end is not ours to warn of
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")]

Told = Callable[[str], list[Mapping[str, Any]]]


def executor(*, limits: Mapping[str, float] | None = None, **options: Any) -> RayExecutor:
    return RayExecutor(RayExecutor.Options(limits=Limits(**{"shutdown": 20, **(limits or {})}), **options))


@pytest.fixture
def events() -> list[Mapping[str, Any]]:
    return []


@pytest.fixture
def told(events: list[Mapping[str, Any]]) -> Told:
    return lambda name: [event for event in events if event["event"] == name]


@pytest.fixture(scope="module")
def _local() -> Iterator[None]:
    """One cluster of three CPUs for many tests."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("_local")
class TestOneMachine:
    def test_the_same_values_as_in_this_process(self, events: list[Mapping[str, Any]], told: Told) -> None:
        names: list[tuple[Any, ...]] = [
            ("drawn",),
            ("double", [1, 2]),
            ("drawn",),
            ("fail", "ValueError", "no"),
            ("drawn",),
        ]
        asked = [Job(i, name, seed=100 + i) for i, name in enumerate(names)]
        found = []
        for each in (InProcessExecutor(), executor(workers=1), executor(workers=3)):
            with each.open(jobs.PLAIN, events.append) as session:
                ended: list[int] = []
                outcomes = session.run(asked, lambda outcome, ended=ended: ended.append(outcome.job))  # type: ignore[misc]
                assert sorted(ended) == [0, 1, 2, 3, 4]
                found.append([(o.job, o.value, o.fault.message if o.fault else "") for o in outcomes])
        assert found[0] == found[1] == found[2]
        assert found[0][3] == (3, None, "ValueError: no")
        assert {e["worker"] for e in told("worker_started")} >= {"cpu", "ray#0"}

    def test_training_is_the_same_to_the_last_bit(self) -> None:
        setup = Setup(jobs.tiny_net, jobs.tune, (1,), seed=5)
        asked = [Job(i, {"lr": 0.05, "steps": 3}, seed=40 + i) for i in range(3)]
        found: list[list[dict[str, Any]]] = []
        for each in (InProcessExecutor(), executor(workers=2)):
            with each.open(setup) as session:
                found.append([o.value for o in session.run(asked)])
        for here, there in zip(*found, strict=True):
            assert here["threads"] == there["threads"] == 1
            assert here["draw"] == there["draw"]
            assert all(torch.equal(tensor, there["weights"][name]) for name, tensor in here["weights"].items())

    def test_a_job_whose_worker_died_is_done_elsewhere(
        self, tmp_path: Path, events: list[Mapping[str, Any]], told: Told
    ) -> None:
        deaths: list[tuple[Any, ...]] = [("kill", int(signal.SIGKILL)), ("leave", 3), ("segfault",)]
        with executor(workers=2).open(jobs.PLAIN, events.append) as session:
            asked = [Job(i, ("first_time_only", str(tmp_path / str(i)), *death)) for i, death in enumerate(deaths)]
            outcomes = session.run(asked)
        assert [(o.value, o.attempts) for o in outcomes] == [("done", 2)] * 3
        assert [o.losses[0].kind for o in outcomes] == ["crash"] * 3
        assert all("is lost: ActorDiedError" in o.losses[0].message for o in outcomes)
        assert sorted(e["job"] for e in told("job_retried")) == [0, 1, 2]

    def test_silence_and_the_limit_of_a_job(self, tmp_path: Path) -> None:
        limits = {"heartbeat": 2, "job": 5}
        with executor(workers=2, retries=1, limits=limits).open(jobs.PLAIN) as session:
            stopped, slow, alive = session.run(
                [
                    Job(0, ("first_time_only", str(tmp_path / "a"), "kill", int(signal.SIGSTOP))),
                    Job(1, ("sleep", 60)),
                    Job(2, ("sleep", 3)),
                ]
            )
        assert (stopped.value, stopped.attempts) == ("done", 2)
        assert "gave no sign of life for 2 s" in stopped.losses[0].message
        assert slow.fault is not None
        assert (slow.fault.kind, slow.attempts, slow.quarantined) == ("timeout", 2, True)
        assert alive.attempts == 1

    def test_what_initialise_raises_ends_the_opening_at_once(self) -> None:
        with pytest.raises(WorkerError) as caught:
            executor(workers=1).open(Setup(jobs.broken, jobs.do, ("no such weights",), torch=False))
        assert "cannot initialise the worker: RuntimeError: no such weights" in str(caught.value)
        assert "in broken\n    raise RuntimeError(message)" in caught.value.traceback

    def test_no_room_for_anybody(self) -> None:
        with pytest.raises(WorkerError) as caught:
            executor(workers=2, cpus=64, limits={"start_up": 2}).open(jobs.PLAIN)
        assert str(caught.value).startswith(
            "no worker was started in 2 s (limits.start_up): each asks for CPU 64; the cluster has free CPU "
        )

    def test_a_callback_that_raises_ends_the_jobs_at_work_and_the_session_goes_on(self) -> None:
        def stop(outcome: Any) -> None:
            raise KeyboardInterrupt

        with executor(workers=2).open(jobs.PLAIN) as session:
            pids = {o.value for o in session.run([Job(i, ("sleep", 0.5)) for i in range(4)])}
            with pytest.raises(KeyboardInterrupt):
                session.run([Job(0, ("sleep", 60)), Job(1, ("pid",))], stop)
            assert [o.value for o in session.run([Job(0, ("double", 1)), Job(1, ("double", 2))])] == [2, 4]
        assert all(gone(pid) for pid in pids)

    def test_a_lost_job_does_not_wait_for_a_worker_without_room(self, tmp_path: Path) -> None:
        with executor(workers=2, cpus=2).open(jobs.PLAIN) as session:
            (outcome,) = session.run([Job(0, ("first_time_only", str(tmp_path / "marker"), "leave", 3))])
        assert (outcome.value, outcome.attempts) == ("done", 2)

    def test_as_many_workers_as_fit(self, events: list[Mapping[str, Any]], told: Told) -> None:
        with executor().open(jobs.PLAIN, events.append) as session:
            session.run([Job(i, ("sleep", 1)) for i in range(6)])
        assert {e["worker"] for e in told("worker_started")} == {"ray#0", "ray#1", "ray#2"}


# ---------------------------------------------------------------- machines that leave and join


def gone(pid: int, within: float = 15.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


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


def test_machines_join_and_are_lost_while_jobs_run(
    cluster: Any, tmp_path: Path, events: list[Mapping[str, Any]], told: Told
) -> None:
    first = cluster.add_node(num_cpus=1)
    log = tmp_path / "log"
    happened: dict[str, Any] = {}

    def change(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event["event"] == "job_done" and "second" not in happened:
            happened["second"] = cluster.add_node(num_cpus=1)
        started = len(told("worker_started"))
        if event["event"] == "job_started" and started == 2 and "lost" not in happened:
            happened["lost"] = cluster.remove_node(first, allow_graceful=False)

    with executor(address=cluster.address, workers=2, limits={"start_up": 60}).open(jobs.PLAIN, change) as session:
        assert len(told("worker_started")) == 1
        outcomes = session.run([Job(i, ("record", str(log), "sleep", 2)) for i in range(10)])
    assert "lost" in happened
    assert [o.fault for o in outcomes] == [None] * 10
    assert len({o.value for o in outcomes}) >= 2
    assert sum(o.attempts for o in outcomes) >= len(log.read_text().splitlines()) >= 10
    assert told("worker_lost") != []


def test_all_machines_lost_and_none_joins(cluster: Any, events: list[Mapping[str, Any]], told: Told) -> None:
    only = cluster.add_node(num_cpus=1)

    def change(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event["event"] == "job_started" and event["attempt"] == 1:
            cluster.remove_node(only, allow_graceful=False)

    session = executor(address=cluster.address, workers=1, limits={"start_up": 15}).open(jobs.PLAIN, change)
    with session, pytest.raises(WorkerError, match=r"no worker was started in 15 s .* the cluster has free nothing"):
        session.run([Job(0, ("sleep", 60))])
    assert [e["job"] for e in told("job_retried")] == [0]


def test_a_parent_that_is_killed(cluster: Any) -> None:
    cluster.add_node(num_cpus=2)
    code = (
        "import sys, time\n"
        "from prunecore.execution import Job\n"
        "from prunecore_plugins.executors.ray import RayExecutor\n"
        "from tests.execution import jobs\n"
        "session = RayExecutor(RayExecutor.Options(address=sys.argv[1], workers=2)).open(jobs.PLAIN)\n"
        "print(*{o.value for o in session.run([Job(i, ('sleep', 1)) for i in range(4)])}, flush=True)\n"
        "session.run([Job(0, ('sleep', 60))])\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids != []
        parent.kill()
    assert all(gone(pid) for pid in pids)


# ---------------------------------------------------------------- no cluster


def opened(address: str, connect: float) -> Session:
    import ray

    ray.shutdown()
    return executor(address=address, connect=connect).open(jobs.PLAIN)


def test_a_cluster_that_is_not_there_is_one_error() -> None:
    started = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"^the ray cluster at '127\.0\.0\.1:1' cannot be reached: .*refused; start one there"
    ):
        opened("127.0.0.1:1", 20)
    assert time.monotonic() - started < 5


def test_somebody_who_is_no_cluster_is_waited_for_no_longer_than_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        with pytest.raises(WorkerError, match=r"cannot be reached in 3 s \(executor\.connect\)"):
            opened(f"127.0.0.1:{mute.getsockname()[1]}", 3)
        assert time.monotonic() - started < 6


def test_auto_where_there_is_none() -> None:
    with pytest.raises(
        WorkerError, match=r"the ray cluster at 'auto' cannot be reached: .*Could not find any running Ray"
    ):
        opened("auto", 30)


def test_its_own_cluster_is_started_and_ended() -> None:
    import ray

    ray.shutdown()
    before = dict(os.environ)
    with executor(workers=1).open(jobs.PLAIN) as session:
        assert ray.is_initialized()
        (pid,) = [o.value for o in session.run([Job(0, ("pid",))])]
    assert not ray.is_initialized()
    assert gone(pid)
    assert {k: v for k, v in os.environ.items() if k.startswith("RAY_USAGE")} == {
        k: v for k, v in before.items() if k.startswith("RAY_USAGE")
    }


# ---------------------------------------------------------------- a cluster that does not answer


def test_a_call_that_is_not_answered_is_waited_for_no_longer_than_the_limit() -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"^the ray cluster gave no answer in 0\.2 s; see `ray status` there"):
        answered(lambda: time.sleep(5), 0.2)
    assert 0.2 <= time.monotonic() - started < 2
    assert answered(lambda: 7, 1) == 7
    with pytest.raises(KeyError, match="gone"):
        answered(lambda: {}["gone"], 1)


@pytest.mark.parametrize("which", ["gcs_server", "raylet"])
def test_a_cluster_that_is_stopped_holds_nobody_up(cluster: Any, which: str) -> None:
    """Neither while jobs run nor when the session is closed nor when python ends."""
    cluster.add_node(num_cpus=1)
    code = (
        "import sys\n"
        "from prunecore.execution import Job, Limits, WorkerError\n"
        "from prunecore_plugins.executors.ray import RayExecutor\n"
        "from tests.execution import jobs\n"
        "limits = Limits(heartbeat=4, start_up=4, shutdown=4)\n"
        "executor = RayExecutor(RayExecutor.Options(address=sys.argv[1], workers=1, limits=limits))\n"
        "session = executor.open(jobs.PLAIN)\n"
        "print('open', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    with session:\n"
        "        print([o.value for o in session.run([Job(0, ('double', 2)), Job(1, ('leave', 3))])], flush=True)\n"
        "except WorkerError as error:\n"
        "    print('WorkerError', str(error).splitlines()[0], flush=True)\n"
    )
    command = [sys.executable, "-c", code, cluster.address]
    root = Path(__file__).parents[3]
    ours = [p for p in psutil.Process().children(recursive=True) if p.name() == which]
    assert ours != []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "open\n"
        for process in ours:
            process.suspend()
        started = time.monotonic()
        try:
            said, _ = parent.communicate("go\n", timeout=90)
        finally:
            for process in ours:
                process.resume()
            parent.kill()
    assert said.startswith("WorkerError ")
    assert time.monotonic() - started < 60
