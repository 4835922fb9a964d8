"""A server that says nothing is waited for within the limit."""

from __future__ import annotations

import socket
import time
import urllib.request

import pytest

from prunecore.loading import silence_limited


def test_a_server_that_says_nothing_is_left_after_the_limit() -> None:
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        with silence_limited(0.3), pytest.raises(OSError, match="timed out"):
            urllib.request.urlopen(f"http://127.0.0.1:{mute.getsockname()[1]}/weights.pth")
        assert 0.3 <= time.monotonic() - started < 5
    assert socket.getdefaulttimeout() == before


def test_the_limit_that_was_there_comes_back() -> None:
    with silence_limited(7):
        with silence_limited():
            assert socket.getdefaulttimeout() == 60
        assert socket.getdefaulttimeout() == 7
