"""A clock for limits."""

from __future__ import annotations

import time

_SLACK = 1.0


class Clock:
    """Seconds in which this process was watching. While it was stopped, asleep or busy elsewhere, no limit runs out.

    Without that, a process that comes back from Ctrl-Z would take every healthy worker for a stopped one.
    """

    def __init__(self) -> None:
        self._elsewhere = 0.0
        self._last = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._elsewhere

    def tick(self, expected: float = 0.0) -> None:
        """To be called often. expected: how long was waited on purpose since the last call, at most."""
        here = time.monotonic()
        excess = here - self._last - expected
        if excess > _SLACK:
            self._elsewhere += excess
        self._last = here
