from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from prunecore.measure import stopwatch
from prunecore.measure.calls import Form, record_calls
from prunecore.measure.stopwatch import FEWEST, MOST, ROUNDS, Point, time_points, timer_of
from prunecore.types import ExampleInputs

CPU = torch.device("cpu")


def points(*widths: int) -> list[Point]:
    found = [record_calls(nn.Conv2d(w, w, 1), ExampleInputs((torch.rand(1, w, 2, 2),)))[0] for w in widths]
    return [(call.form, call.sizes) for call in found]


@dataclass
class Watch:
    """A clock that goes on by what each call is said to take: the channels of its result, or 100 for the network; every
    seventh turn is disturbed."""

    now: float = 0.0
    turns: int = 0

    def timer(self, call: Callable[[], Any]) -> float:
        self.turns += 1
        made = call()
        taken = 100.0 if made is None else float(made.shape[1])
        self.now += taken * (50 if self.turns % 7 == 0 else 1)
        return taken * (50 if self.turns % 7 == 0 else 1)

    def measure(self, wanted: list[Point], seconds: float) -> stopwatch.Timed:
        return time_points(
            wanted, [lambda: None], timer=self.timer, device=CPU, seconds=seconds, clock=lambda: self.now
        )


def test_the_median_of_the_turns_is_not_moved_by_a_few_that_were_disturbed() -> None:
    wanted = points(3, 5, 8)
    found = Watch().measure(wanted, 0.0)
    assert found.seconds == dict(zip(wanted, (3.0, 5.0, 8.0), strict=True))
    assert found.whole == (100.0,)
    assert found.passes == FEWEST


def test_equal_points_are_timed_once() -> None:
    watch = Watch()
    found = watch.measure(points(4, 4, 4), 0.0)
    assert list(found.seconds.values()) == [4.0]
    assert watch.turns == FEWEST * ROUNDS * 2  # the point and the network


@pytest.mark.parametrize(("seconds", "passes"), [(1e9, MOST), (2500.0, 6)])
def test_passes_go_on_until_the_time_is_over(seconds: float, passes: int) -> None:
    @dataclass
    class Quiet(Watch):
        def timer(self, call: Callable[[], Any]) -> float:
            made = call()
            taken = 100.0 if made is None else float(made.shape[1])
            self.now += taken
            return taken

    # a pass takes 3 * (100 + 30) seconds
    assert Quiet().measure(points(30), seconds).passes == passes


def test_a_call_that_cannot_be_made_alone_is_told_and_left_out() -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("expected a real index\nand more")

    bad = (Form(broken, (), {}, "broken"), (1,))
    found = Watch().measure([*points(3), bad], 0.0)
    assert found.failed == {bad: "RuntimeError: expected a real index"}
    assert list(found.seconds.values()) == [3.0]


def test_one_thread_is_timed_by_its_own_time() -> None:
    """A process that waits takes no time of its own; several threads are timed by the wall clock."""
    import time

    assert timer_of(CPU, 1)(lambda: time.sleep(0.02)) < 0.01
    assert timer_of(CPU, 2)(lambda: time.sleep(0.02)) >= 0.02
