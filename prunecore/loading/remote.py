"""Downloads by other libraries, which wait for a silent server for ever unless the process has a limit for sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

SILENCE = 60.0  # s


@contextmanager
def silence_limited(seconds: float = SILENCE) -> Iterator[None]:
    """A connection that is made meanwhile, and gives nothing for so long, is an OSError; afterwards the limit is what it was."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
