"""Ctrl-C ends in KeyboardInterrupt, whatever a library makes of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from prunecore.cli.interrupt import interruptible


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """A test runner in the background is handed down an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def importing() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("not found") from None


def test_an_exception_that_a_library_makes_of_ctrl_c_is_ctrl_c_again():
    with pytest.raises(KeyboardInterrupt), interruptible():
        importing()


def test_other_exceptions_pass_as_they_are():
    with pytest.raises(ValueError, match="mine"), interruptible():
        raise ValueError("mine")


def test_the_handler_of_before_is_back_afterwards_and_an_ignored_signal_stays_ignored():
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
