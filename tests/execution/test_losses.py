"""Workers that die, stop, or take too long; every limit, made to pass."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prunecore.execution import ExecutionSettings, Job, Limits, LocalExecutor, Setup, WorkerError
from tests.execution import jobs
from tests.execution.conftest import children, gone

Told = Callable[[str], list[Mapping[str, Any]]]


def executor(count: int = 2, *, retries: int = 2, **limits: float) -> LocalExecutor:
    return LocalExecutor(("cpu",) * count, ExecutionSettings(retries=retries, limits=Limits(**limits)))


def test_a_job_whose_worker_died_is_done_elsewhere(tmp_path: Path, events: list[Mapping[str, Any]], told: Told) -> None:
    deaths = [
        ("kill", int(signal.SIGKILL)),
        ("leave", 3),
        ("segfault",),
        ("fork_and_die", 60),  # its child holds the line open: no end of file tells of the death
    ]
    with executor().open(jobs.PLAIN, events.append) as session:
        asked = [Job(i, ("first_time_only", str(tmp_path / str(i)), *death)) for i, death in enumerate(deaths)]
        outcomes = session.run(asked)
        assert len(session.run([Job(i, ("double", i)) for i in range(4)])) == 4
    assert [(o.value, o.attempts) for o in outcomes] == [("done", 2)] * 4
    losses = [o.losses[0] for o in outcomes]
    assert [loss.kind for loss in losses] == ["crash"] * 4
    how = ["was ended by SIGKILL (by hand, or for want of memory) at job 0", "left with exit code 3 at job 1"]
    how += ["was ended by SIGSEGV, in File ", "was ended by SIGKILL (by hand, or for want of memory) at job 3"]
    assert [loss.message.partition(" ")[2].partition(" ")[2].startswith(h) for loss, h in zip(losses, how, strict=True)]
    assert all(o.worker not in o.losses[0].message for o in outcomes)
    assert "Segmentation fault" in losses[2].traceback
    assert "in segfault" in losses[2].traceback
    assert sorted(e["why"] for e in told("worker_lost")) == sorted(loss.message for loss in losses)
    assert sorted((e["job"], e["attempt"]) for e in told("job_retried")) == [(i, 1) for i in range(4)]


def test_a_job_that_always_kills_is_quarantined_and_the_session_goes_on(
    tmp_path: Path, events: list[Mapping[str, Any]], told: Told
) -> None:
    log = tmp_path / "log"
    with executor(2, retries=2).open(jobs.PLAIN, events.append) as session:
        asked = [Job(i, ("double", i)) for i in range(4)]
        asked.insert(1, Job(10, ("record", str(log), "kill", int(signal.SIGKILL))))
        outcomes = session.run(asked)
    bad = outcomes[1]
    assert [o.value for o in outcomes if o.fault is None] == [0, 2, 4, 6]
    assert bad.fault is not None
    assert bad.fault.kind == "crash"
    assert bad.quarantined
    assert bad.attempts == 3 == len(bad.losses)
    assert len(log.read_text().splitlines()) == 3
    assert [(e["job"], e["attempts"]) for e in told("quarantined")] == [(10, 3)]
    assert told("job_done")[-1]["fault"] == "crash"


def test_limit_of_a_job(tmp_path: Path) -> None:
    with executor(2, retries=1, job=0.5).open(jobs.PLAIN) as session:
        slow, once, quick = session.run(
            [
                Job(0, ("sleep", 60)),
                Job(1, ("first_time_only", str(tmp_path / "marker"), "sleep", 60)),
                Job(2, ("double", 4)),
            ]
        )
    assert slow.fault is not None
    assert slow.fault.kind == "timeout"
    assert slow.quarantined
    assert slow.attempts == 2
    assert slow.fault.message.startswith("job 0 took longer than 0.5 s on worker cpu#")
    assert 0.5 <= slow.seconds < 3
    assert (once.value, once.attempts, once.losses[0].kind) == ("done", 2, "timeout")
    assert quick.value == 8


def test_limit_of_silence(tmp_path: Path) -> None:
    """A stopped worker, and one that holds the interpreter's lock, cannot beat; one that only sleeps can."""
    with executor(2, heartbeat=1).open(jobs.PLAIN) as session:
        stopped, alive = session.run(
            [
                Job(0, ("first_time_only", str(tmp_path / "a"), "kill", int(signal.SIGSTOP))),
                Job(1, ("sleep", 2.5)),
            ]
        )
        (held,) = session.run([Job(2, ("first_time_only", str(tmp_path / "b"), "hold_the_lock", 20))])
    for outcome in (stopped, held):
        assert (outcome.value, outcome.attempts) == ("done", 2)
        assert outcome.losses[0].kind == "crash"
        assert "gave no sign of life for 1 s" in outcome.losses[0].message
    assert alive.attempts == 1
    assert gone(int((tmp_path / "a").read_text()))


def test_limit_of_start_up() -> None:
    """Nothing starts in a thousandth of a second; three times, then there is an end to it."""
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        executor(1, start_up=0.001).open(jobs.PLAIN)
    assert str(caught.value) == (
        "workers cannot be started, tried 3 times in a row: worker cpu#0 was not started in 0.001 s (limits.start_up)"
    )
    assert time.monotonic() - started < 5
    assert children() == []


def test_limit_of_initialise() -> None:
    limits = ExecutionSettings(starts=1, limits=Limits(initialise=0.3))
    with pytest.raises(WorkerError, match=r"tried once: worker cpu#0 was not initialised in 0\.3 s"):
        LocalExecutor(("cpu",), limits).open(Setup(jobs.slow, jobs.do, (60,), torch=False))
    assert children() == []


def test_silence_while_initialising() -> None:
    limits = ExecutionSettings(starts=1, limits=Limits(heartbeat=0.8))
    with pytest.raises(WorkerError, match=r"tried once: worker cpu#0 gave no sign of life for 0\.8 s"):
        LocalExecutor(("cpu",), limits).open(Setup(jobs.stops, jobs.do, torch=False))


def test_limit_of_shutdown() -> None:
    """An idle worker that does not answer is killed when half of the limit has passed."""
    session = executor(2, shutdown=1).open(jobs.PLAIN)
    pids = {o.value for o in session.run([Job(i, ("sleep", 0.2)) for i in range(2)])}
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    session.close()
    assert 0.4 < time.monotonic() - started < 1.5
    assert all(gone(pid, 0.1) for pid in pids)
    assert children() == []


def test_workers_that_die_while_they_initialise_are_not_started_without_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(WorkerError) as caught:
        LocalExecutor(("cpu",), ExecutionSettings(starts=3)).open(Setup(jobs.dies, jobs.do, (str(log),), torch=False))
    assert log.read_text() == "xxx"
    assert "tried 3 times in a row: worker cpu#0 was ended by SIGSEGV, in File " in str(caught.value)
    assert str(caught.value).endswith(" while it started")
    assert "in dies" in caught.value.traceback


def test_a_slot_that_cannot_be_filled_again_is_retired_and_the_others_go_on(
    tmp_path: Path, events: list[Mapping[str, Any]], told: Told
) -> None:
    setup = Setup(jobs.broken_once_ready, jobs.do, (str(tmp_path / "log"), 2), torch=False)
    limits = ExecutionSettings(starts=2)
    with LocalExecutor(("cpu", "cpu"), limits).open(setup, events.append) as session:
        lost, *others = session.run(
            [Job(0, ("first_time_only", str(tmp_path / "m"), "kill", 9)), *(Job(i, ("double", i)) for i in range(1, 6))]
        )
        assert (lost.value, lost.worker) == ("done", "cpu#1")
        assert [o.value for o in others] == [2, 4, 6, 8, 10]
        # the retirement may come after the last job
        assert len(session.run([Job(0, ("sleep", 2))])) == 1
        retired = told("worker_retired")
        assert [(e["worker"], e["failures"]) for e in retired] == [("cpu#0", 2)]
        assert "no more of them" in retired[0]["why"]
        with pytest.raises(WorkerError, match=r"tried 2 times in a row: .*no more of them"):
            session.run([Job(0, ("kill", 9))])


def test_a_worker_that_died_between_runs_costs_no_attempt(events: list[Mapping[str, Any]], told: Told) -> None:
    with executor(2).open(jobs.PLAIN, events.append) as session:
        pids = {o.value for o in session.run([Job(i, ("sleep", 0.2)) for i in range(2)])}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            # all of its threads, not its first one only
            assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is not None
        outcomes = session.run([Job(i, ("pid",)) for i in range(2)])
    assert [o.attempts for o in outcomes] == [1, 1]
    assert {o.value for o in outcomes} & pids == set()
    assert len(told("worker_lost")) == 2


def test_what_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    with executor(1, job=1.0, retries=0).open(jobs.PLAIN) as session:
        (first,) = session.run([Job(0, ("child", 60))])
        assert children() != []
        (late,) = session.run([Job(1, ("sleep", 60))])
        assert late.quarantined
        assert gone(first.value)
        (second,) = session.run([Job(2, ("child", 60))])
    assert gone(second.value)


def test_a_big_payload_to_a_stopped_worker_does_not_hang() -> None:
    """The pipe is full long before 5 MB; the parent must not wait for it."""
    with executor(1, heartbeat=1, retries=0).open(jobs.PLAIN) as session:
        (pid,) = [o.value for o in session.run([Job(0, ("pid",))])]
        os.kill(pid, signal.SIGSTOP)
        (outcome,) = session.run([Job(1, ("double", b"x" * 5_000_000))])
        assert outcome.quarantined
        (outcome,) = session.run([Job(1, ("double", b"x" * 5_000_000))])
    assert outcome.value == b"x" * 10_000_000


def test_limits_are_positive_numbers() -> None:
    from pydantic import ValidationError

    for bad in (0, -1, float("inf"), float("nan"), "soon"):
        with pytest.raises(ValidationError):
            Limits(job=bad)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        ExecutionSettings(threads=0)
