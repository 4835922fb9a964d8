"""How long a run will take, and how sure that is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RECENT = 3  # rounds that the next ones are judged by: the network shrinks, so older ones took longer


@dataclass(frozen=True)
class TimeLeft:
    """Seconds: what the last rounds suggest, and what the fastest and the slowest of them would mean."""

    seconds: float
    low: float
    high: float

    def after(self, elapsed: float) -> TimeLeft:
        """The same when `elapsed` seconds of it have passed."""
        return TimeLeft(*(max(0.0, value - elapsed) for value in (self.seconds, self.low, self.high)))


@dataclass(frozen=True)
class Mark:
    """A round was through. at: seconds of the run, interruptions left out. size: what was left. tried: it had trials."""

    at: float
    size: float
    tried: bool = False


def estimated(epoch: float, *, epochs: int, rounds: int) -> float:
    """Seconds of a run before it starts: `epoch` (epochs + 1) rounds; the one more is for calibration and evaluation."""
    return epoch * (epochs + 1) * rounds


def time_left(starts: Sequence[float], rounds: int) -> TimeLeft | None:
    """What is left at the start of the newest round, by the times at which rounds started; None before the second."""
    lasted = [later - earlier for earlier, later in itertools.pairwise(starts)][-_RECENT:]
    left = rounds - len(starts) + 1
    if not lasted or left <= 0:
        return None
    return TimeLeft(left * sum(lasted) / len(lasted), left * min(lasted), left * max(lasted))


def marks_of(records: Sequence[Mapping[str, Any]]) -> tuple[Mark, ...]:
    """Where the search began, and every round that is through, by the journal of a run; nothing before the search."""
    found: list[Mark] = []
    sizes: dict[str, float] = {}
    tried = False
    for record in records:
        name, _, part = str(record.get("name", "")).partition("/")
        if name == "before":
            found.append(Mark(record["at"], 1.0))
        elif name.startswith("trial-"):
            tried = True
        elif name.startswith("candidate-") and part == "cut":
            sizes[name] = record["data"]["size"]
        elif name.startswith("candidate-") and part == "search":
            found.append(Mark(record["at"], sizes[name], tried))
            tried = False
    return tuple(found)


def time_to(marks: Sequence[Mark], goal: float) -> TimeLeft | None:
    """What a search needs from the newest mark to the size `goal`: by how fast the size fell in the last rounds.

    Where rounds have trials, those without (a first cut by plan) say nothing of them. None where no round has made it smaller.
    """
    rounds = list(itertools.pairwise(marks))
    searched = [pair for pair in rounds if pair[1].tried] or rounds
    paced = [(b.at - a.at, a.size - b.size) for a, b in searched[-_RECENT:] if b.size < a.size]
    if not paced:
        return None
    left = max(0.0, marks[-1].size - goal)
    paces = [seconds / fall for seconds, fall in paced]
    mean = sum(seconds for seconds, _ in paced) / sum(fall for _, fall in paced)
    return TimeLeft(left * mean, left * min(paces), left * max(paces))
