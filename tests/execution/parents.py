"""Parents that come to a bad end: `python -m tests.execution.parents HOW` prints the ids of its workers, then meets it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from prunecore.execution import ExecutionSettings, Job, Limits, LocalExecutor
from tests.execution import jobs


def main(how: str) -> None:
    limits = Limits(shutdown=2, heartbeat=1, job=3 if how == "frozen" else 60)
    session = LocalExecutor(("cpu", "cpu"), ExecutionSettings(limits=limits)).open(jobs.PLAIN)
    pids = [o.value for o in session.run([Job(i, ("sleep", 0.2)) for i in range(2)])]
    globals()[how](session, pids)


def say(*words: object) -> None:
    print(*words, flush=True)


def idle(session: Any, pids: list[int]) -> None:
    say(*pids)
    time.sleep(60)


def busy(session: Any, pids: list[int]) -> None:
    say(*pids)
    with session:
        session.run([Job(0, ("sleep", 60)), Job(1, ("sleep", 60))])


def stopped(session: Any, pids: list[int]) -> None:
    """One worker is stopped, the other holds the interpreter's lock; both have started a process."""
    below = [o.value for o in session.run([Job(i, ("child", 60)) for i in range(2)])]
    os.kill(pids[0], signal.SIGSTOP)
    say(*pids, *below)
    session.run([Job(1, ("hold_the_lock", 60)), Job(0, ("hold_the_lock", 60))])


def unclosed(session: Any, pids: list[int]) -> None:
    say(*pids)


def frozen(session: Any, pids: list[int]) -> None:
    """Says how many attempts two jobs took, and who did them."""
    say(*pids)
    outcomes = session.run([Job(0, ("sleep", 4.5)), Job(1, ("sleep", 4.5))])
    say(*(o.attempts for o in outcomes), *(o.value for o in outcomes))
    session.close()


if __name__ == "__main__":
    main(sys.argv[1])
