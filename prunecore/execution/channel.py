"""Frames (a tag and bytes) over a pair of sockets. The parent's end never blocks; the worker's end does."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from typing import NamedTuple

_HEADER = struct.Struct("!cQ")

# what the parent says
SETUP, JOB, STOP = b"s", b"j", b"x"
# what a worker says
HELLO, READY, BROKEN, BEAT, DONE = b"h", b"r", b"b", b".", b"d"


class Frame(NamedTuple):
    tag: bytes
    body: bytes | bytearray


class Channel:
    """The parent's end. `closed`: the other side has gone."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._out: deque[memoryview] = deque()
        self._head = bytearray(_HEADER.size)
        self._body: bytearray | None = None
        self._filled = 0
        self.closed = False

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._out) and not self.closed

    def send(self, tag: bytes, body: bytes = b"") -> None:
        """Queue a frame and write as much as goes without waiting."""
        self._out += [memoryview(part) for part in (_HEADER.pack(tag, len(body)), body) if part]
        self.flush()

    def flush(self) -> None:
        """Write as much as goes without waiting."""
        while self.pending:
            try:
                sent = self._end.send(self._out[0])
            except BlockingIOError:
                return
            except OSError:  # the worker has died; what it said before is still there to be read
                self._out.clear()
                return
            if sent == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][sent:]

    def receive(self) -> tuple[list[Frame], bool]:
        """The frames that are complete by now, and whether any byte came."""
        frames: list[Frame] = []
        heard = False
        while not self.closed:
            target = self._head if self._body is None else self._body
            try:
                count = self._end.recv_into(memoryview(target)[self._filled :])
            except BlockingIOError:
                break
            except OSError:
                count = 0
            self.closed = count == 0
            heard = heard or count > 0
            self._filled += count
            if self._filled == len(target) and not self.closed:
                frames += self._complete()
        return frames, heard

    def _complete(self) -> list[Frame]:
        self._filled = 0
        tag, size = _HEADER.unpack(self._head)
        if self._body is None and size:
            self._body = bytearray(size)
            return []
        body, self._body = self._body or bytearray(), None
        return [Frame(tag, body)]

    def close(self) -> None:
        self.closed = True
        self._end.close()


class Line:
    """The worker's end. Several threads may send."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(True)
        self._end = end
        self._lock = threading.Lock()

    def send(self, tag: bytes, body: bytes = b"") -> None:
        """Raises OSError where the parent has gone."""
        with self._lock:
            self._end.sendall(_HEADER.pack(tag, len(body)))
            self._end.sendall(body)

    def receive(self) -> Frame | None:
        """The next frame; None where the parent has gone."""
        head = self._exactly(_HEADER.size)
        if head is None:
            return None
        tag, size = _HEADER.unpack(head)
        body = self._exactly(size)
        return None if body is None else Frame(tag, body)

    def _exactly(self, size: int) -> bytearray | None:
        body = bytearray(size)
        filled = 0
        while filled < size:
            try:
                count = self._end.recv_into(memoryview(body)[filled:])
            except OSError:
                return None
            if count == 0:
                return None
            filled += count
        return body
