"""Worker processes: values, order, faults, and that nothing hangs on how many there are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prunecore.errors import ConfigError
from prunecore.execution import (
    ExecutionSettings,
    Executor,
    InProcessExecutor,
    Job,
    LocalExecutor,
    Outcome,
    Setup,
    WorkerError,
    local_executor,
)
from tests.execution import jobs
from tests.execution.conftest import children

TWO = LocalExecutor(("cpu", "cpu"))
Told = Callable[[str], list[Mapping[str, Any]]]


def faults(outcomes: list[Outcome]) -> list[tuple[str, str] | None]:
    return [(o.fault.kind, o.fault.message) if o.fault else None for o in outcomes]


def test_outcomes_come_in_the_order_of_the_jobs_and_are_told_as_they_end() -> None:
    ended: list[int] = []
    with TWO.open(jobs.PLAIN) as session:
        asked = [Job(7, ("sleep", 0.6)), Job(3, ("double", 21)), Job(9, ("double", "ab"))]
        outcomes = session.run(asked, lambda outcome: ended.append(outcome.job))
    assert [o.job for o in outcomes] == [7, 3, 9]
    assert [o.value for o in outcomes[1:]] == [42, "abab"]
    assert ended == [3, 9, 7]
    assert all(o.attempts == 1 and o.losses == () and not o.quarantined for o in outcomes)
    assert outcomes[0].seconds >= 0.6 > outcomes[1].seconds


def test_workers_persist_and_share_the_jobs() -> None:
    with TWO.open(jobs.PLAIN) as session:
        first = session.run([Job(i, ("sleep", 0.1)) for i in range(4)])
        again = session.run([Job(i, ("sleep", 0.1)) for i in range(4)])
        assert session.run([]) == []
    assert len({o.value for o in first}) == 2
    assert {o.value for o in again} == {o.value for o in first}
    assert {o.worker for o in first} == {"cpu#0", "cpu#1"}
    assert os.getpid() not in {o.value for o in first}


def test_an_event_for_everything_that_happens(events: list[Mapping[str, Any]], told: Told) -> None:
    with LocalExecutor(("cpu",)).open(jobs.PLAIN, events.append) as session:
        (outcome,) = session.run([Job(4, ("pid",))])
    assert [event["event"] for event in events] == ["worker_started", "job_started", "job_done"]
    assert told("worker_started")[0] == {
        "event": "worker_started",
        "worker": "cpu#0",
        "device": "cpu",
        "pid": outcome.value,
    }
    assert told("job_started")[0] == {"event": "job_started", "job": 4, "worker": "cpu#0", "attempt": 1}
    assert told("job_done")[0]["attempts"] == 1
    assert told("job_done")[0]["fault"] is None


def test_exceptions_are_faults_that_are_not_tried_again(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with TWO.open(jobs.PLAIN) as session:
        outcomes = session.run(
            [
                Job(0, ("record", log, "fail", "ValueError", "3 channels, expected 4\nsecond line")),
                Job(1, ("fail", "MemoryError", "")),
                Job(2, ("fail", "RuntimeError", "CUDA out of memory. Tried to allocate 2 GiB")),
                Job(3, ("fail", "SystemExit", "2")),
                Job(4, ("unpicklable",)),
                Job(5, lambda: 0),
                Job(6, ("double", 2)),
            ]
        )
    kinds = [fault[0] if fault else None for fault in faults(outcomes)]
    assert kinds == ["error", "memory", "memory", "error", "error", "error", None]
    messages = [o.fault.message for o in outcomes if o.fault]
    assert messages[0] == "ValueError: 3 channels, expected 4"
    assert messages[2] == "not enough memory to do the job: CUDA out of memory. Tried to allocate 2 GiB"
    assert messages[3] == "SystemExit: 2"
    assert messages[4].startswith("cannot pickle the value: ")
    assert messages[5].startswith("cannot pickle the payload: ")
    assert outcomes[0].fault is not None
    assert 'in fail\n    raise getattr(__import__("builtins"), kind)(message)' in outcomes[0].fault.traceback
    assert len(Path(log).read_text().splitlines()) == 1
    assert outcomes[6].value == 4
    assert [o.attempts for o in outcomes] == [1] * 7


def test_a_worker_whose_cuda_context_is_lost_is_replaced(events: list[Mapping[str, Any]], told: Told) -> None:
    with LocalExecutor(("cpu",)).open(jobs.PLAIN, events.append) as session:
        text = "CUDA error: device-side assert triggered"
        first, lost, after = session.run([Job(0, ("pid",)), Job(1, ("fail", "RuntimeError", text)), Job(2, ("pid",))])
    assert faults([lost]) == [("error", f"RuntimeError: {text}")]
    assert lost.attempts == 1
    assert after.value != first.value
    assert [e["why"] for e in told("worker_lost")] == ["worker cpu#0 has lost its CUDA context"]


def test_every_executor_does_the_same() -> None:
    """In this process, in one worker, in two, in three: the draws too, whatever ran before."""
    asked = [
        Job(i, name, seed=100 + i) for i, name in enumerate([("drawn",), ("double", [1, 2]), ("drawn",), ("drawn",)])
    ]
    executors: list[Executor] = [InProcessExecutor(), *(LocalExecutor(("cpu",) * n) for n in (1, 2, 3))]
    found = []
    for executor in executors:
        with executor.open(jobs.PLAIN) as session:
            found.append([o.value for o in session.run(asked)])
            assert [o.value for o in session.run(asked[::-1])][::-1] == found[-1]
    assert found[0] == found[1] == found[2] == found[3]
    assert len({found[0][0], found[0][2], found[0][3]}) == 3


def test_the_state_is_drawn_from_the_seed_of_the_setup() -> None:
    states = []
    for seed in (1, 1, 2):
        setup = Setup(jobs.draws, jobs.whole_state, seed=seed, torch=False)
        with InProcessExecutor().open(setup) as session:
            states.append(session.run([Job(0, None)])[0].value)
    with LocalExecutor(("cpu", "cpu")).open(setup) as session:
        states += [o.value for o in session.run([Job(0, None), Job(1, None)])]
    assert states[0] == states[1] != states[2]
    assert states[3:] == [states[2], states[2]]


def test_workers_know_their_device_and_their_threads_and_this_process_keeps_its_own() -> None:
    before = dict(os.environ)
    settings = ExecutionSettings(threads=3)
    with LocalExecutor(("cpu", "cpu"), settings).open(Setup(jobs.device_of, jobs.do, ("a", 1), torch=False)) as session:
        (outcome,) = session.run([Job(0, ("asked",))])
    assert outcome.value == {"device": "cpu", "args": ("a", 1), "threads": "3", "torch": False}
    assert dict(os.environ) == before


def test_a_payload_is_a_copy_also_in_this_process() -> None:
    payload = ("double", [1])
    for executor in (InProcessExecutor(), LocalExecutor(("cpu",))):
        with executor.open(jobs.PLAIN) as session:
            (outcome,) = session.run([Job(0, payload)])
        assert outcome.value == [1, 1]
        assert outcome.value is not payload[1]


def test_a_callback_that_raises_ends_the_jobs_at_work_and_the_session_goes_on() -> None:
    def stop(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with TWO.open(jobs.PLAIN) as session:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            session.run([Job(0, ("sleep", 30)), Job(1, ("pid",))], stop)
        assert [o.value for o in session.run([Job(0, ("double", 1)), Job(1, ("double", 2))])] == [2, 4]
        assert time.monotonic() - started < 10


def test_a_session_is_refused_what_it_cannot_do() -> None:
    with TWO.open(jobs.PLAIN) as session:
        with pytest.raises(ValueError, match="two jobs have the number 3; give every job of a run its own"):
            session.run([Job(3, ("pid",)), Job(3, ("pid",))])
        inner: list[str] = []

        def nested(outcome: Outcome) -> None:
            with pytest.raises(WorkerError) as caught:
                session.run([Job(1, ("pid",))])
            inner.append(str(caught.value))

        session.run([Job(0, ("pid",))], nested)
        assert inner == ["this session of workers is at work: wait for its outcomes"]
    session.close()
    for closed in (session, _closed_in_process()):
        with pytest.raises(WorkerError, match="this session of workers is closed: open another"):
            closed.run([Job(0, ("pid",))])


def _closed_in_process() -> Any:
    session = InProcessExecutor().open(jobs.PLAIN)
    session.close()
    return session


def test_a_setup_that_cannot_be_pickled_is_refused_before_a_process_is_started() -> None:
    with pytest.raises(WorkerError, match=r"the setup of workers cannot be pickled: .* must be functions of a module"):
        TWO.open(Setup(lambda device: None, jobs.do, torch=False))


@pytest.mark.parametrize("executor", [InProcessExecutor(), LocalExecutor(("cpu", "cpu"))], ids=["here", "workers"])
def test_what_initialise_raises_ends_the_opening_at_once(executor: Executor) -> None:
    with pytest.raises(WorkerError) as caught:
        executor.open(Setup(jobs.broken, jobs.do, ("no such weights",), torch=False))
    assert "cannot initialise the worker: RuntimeError: no such weights" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "in broken\n    raise RuntimeError(message)" in caught.value.traceback
    assert children() == []


def test_no_list_or_a_single_worker_needs_no_process() -> None:
    assert local_executor(ExecutionSettings(), device="cpu") == InProcessExecutor("cpu", 1)
    assert local_executor(ExecutionSettings(workers=(), threads=2), device="cpu") == InProcessExecutor("cpu", 2)
    assert local_executor(ExecutionSettings(workers=("cpu",))) == InProcessExecutor("cpu", 1)
    two = ExecutionSettings(workers=("cpu", "CPU "))
    assert local_executor(two) == LocalExecutor(("cpu", "cpu"), two)


def test_devices_that_the_machine_lacks_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunecore.training import devices

    monkeypatch.setattr(devices, "available_devices", lambda: ("cuda:0", "cpu"))
    settings = ExecutionSettings(workers=(0, "0", 1, "cuda:2", "cpu", 1))
    with pytest.raises(ConfigError) as caught:
        local_executor(settings)
    assert str(caught.value) == (
        "workers: this machine has no cuda:1, cuda:2 (asked for: cuda:0, cuda:0, cuda:1, cuda:2, cpu, cuda:1); "
        "it has cuda:0, cpu; choose for example --set executor.workers=[cuda:0,cuda:0,cuda:0,cuda:0,cpu,cuda:0]"
    )
    legacy = local_executor(ExecutionSettings(workers=(0, "0", "cuda")))
    assert isinstance(legacy, LocalExecutor)
    assert legacy.devices == ("cuda:0", "cuda:0", "cuda:0")
