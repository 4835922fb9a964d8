"""The clock, the channel, the words for deaths, and the faults of exceptions."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from prunecore import execution
from prunecore.errors import ModelError, OutOfMemory
from prunecore.execution import Setup
from prunecore.execution.attempt import attempt, encode, fault_of
from prunecore.execution.channel import BEAT, DONE, JOB, Channel, Frame, Line
from prunecore.execution.clock import Clock
from prunecore.execution.process import last_words
from tests.execution import jobs


def test_time_in_which_nobody_watched_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    real = 100.0
    monkeypatch.setattr("prunecore.execution.clock.time.monotonic", lambda: real)
    watch = Clock()
    start = watch.now()
    real += 0.6
    watch.tick(0.5)
    assert watch.now() - start == pytest.approx(0.6)
    real += 3600
    watch.tick(0.5)
    assert watch.now() - start == pytest.approx(1.1)  # the wait that was meant counts, the rest does not
    real += 0.3
    watch.tick()
    assert watch.now() - start == pytest.approx(1.4)


def test_frames_arrive_whole_whatever_their_size() -> None:
    ours, theirs = socket.socketpair()
    channel, line = Channel(ours), Line(theirs)
    bodies = [b"", b"x", random.Random(0).randbytes(3_000_000), b"end"]

    def serve() -> None:
        for _ in bodies:
            frame = line.receive()
            assert frame is not None
            line.send(BEAT)
            line.send(DONE, frame.tag + frame.body)

    thread = threading.Thread(target=serve)
    thread.start()
    for body in bodies:
        channel.send(JOB, body)
    assert channel.pending
    frames: list[Frame] = []
    while len(frames) < 2 * len(bodies):
        channel.flush()
        frames += channel.receive()[0]
        time.sleep(0.001)
    thread.join()
    assert [f.tag for f in frames] == [BEAT, DONE] * 4
    assert [bytes(f.body) for f in frames if f.tag == DONE] == [JOB + body for body in bodies]
    assert channel.receive() == ([], False)
    theirs.close()
    assert channel.receive() == ([], False)
    assert channel.closed
    channel.close()


def test_a_line_that_is_cut_in_the_middle_of_a_frame_yields_none() -> None:
    ours, theirs = socket.socketpair()
    channel, line = Channel(ours), Line(theirs)
    theirs.send(b"d\0\0")
    assert channel.receive() == ([], True)
    ours.send(b"j\0\0\0\0\0\0\0\x05abc")
    channel.close()
    assert line.receive() is None
    with pytest.raises(OSError, match="Broken pipe"):
        line.send(BEAT)
    theirs.close()


def test_how_a_process_ended() -> None:
    trace = 'Fatal Python error\n\nThread 1:\n  File "a.py", line 1 in wait\n\nCurrent thread 2:\n  File "b.py", line 7 in work\n'
    assert last_words(3, "").how == "left with exit code 3"
    assert last_words(-9, "").how == "was ended by SIGKILL (by hand, or for want of memory)"
    assert last_words(-11, trace) == ('was ended by SIGSEGV, in File "b.py", line 7 in work', trace)
    assert last_words(None, "").how == "cannot be killed"


def test_faults_of_exceptions() -> None:
    assert fault_of(ValueError(), "do the job").message == "ValueError"
    assert fault_of(ValueError("a\nb"), "read the value").message == "cannot read the value: ValueError: a"
    ours = fault_of(OutOfMemory("not enough memory to cut x"), "do the job")
    assert (ours.kind, ours.message) == ("memory", "not enough memory to cut x")
    assert fault_of(torch.OutOfMemoryError("CUDA out of memory."), "do the job").kind == "memory"
    assert fault_of(ModelError("x"), "do the job").kind == "error"


def draw(state: None, payload: None) -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_all_generators_are_seeded_for_the_job_and_left_alone() -> None:
    setup = Setup(jobs.draws, draw)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first = draw(None, None)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    made = [attempt(setup, None, encode(None), seed=seed, device="cpu").value for seed in (7, 7, 8)]
    assert made[0] == made[1] != made[2]
    assert draw(None, None) == first


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; import prunecore.execution.local, prunecore.execution.in_process; assert 'torch' not in sys.modules;"
        "sys.exit(0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys; import prunecore.execution.worker; sys.exit(bool({'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    assert all(getattr(execution, name) is not None for name in execution.__all__)
    with pytest.raises(AttributeError):
        _ = execution.nothing
