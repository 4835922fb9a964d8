"""How long a run will take, and how sure that is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_RECENT = 3  # rounds that the next ones are judged by: the network shrinks, so older ones took longer


@dataclass(frozen=True)
class TimeLeft:
    """Seconds: what the last rounds suggest, and what the fastest and the slowest of them would mean."""

    seconds: float
    low: float
    high: float


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
