from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from prunecore.errors import ConfigError
from prunecore.measure import Latency, Ratio, Timing, measure_latency
from prunecore.measure import latency as module
from prunecore.measure.batch import at_batch
from prunecore.measure.intervals import FEWEST
from prunecore.measure.latency import ENOUGH, MOST, interleave, pinned_threads, turn_of
from prunecore.types import ExampleInputs

CPU = torch.device("cpu")
IMAGE = ExampleInputs((torch.zeros(1, 3, 8, 8),))


@dataclass
class Machine:
    """A machine on which time passes only while subjects run, `load(now)` times as long as when it is quiet."""

    load: Callable[[float], float] = lambda now: 1.0
    now: float = 0.0
    ran: list[str] = field(default_factory=list)

    def turn(self, name: str, seconds: float) -> Callable[[], float]:
        def run() -> float:
            taken = seconds * self.load(self.now)
            self.now += taken
            self.ran.append(name)
            return taken

        return run

    def clock(self) -> float:
        return self.now

    def measure(self, seconds: float, **costs: float) -> Latency:
        turns = {name: self.turn(name, cost) for name, cost in costs.items()}
        return Latency(1, interleave(turns, seconds, clock=self.clock))


# ---------------------------------------------------------------- rounds


def test_every_round_has_every_subject_once_in_an_order_drawn_anew() -> None:
    machine = Machine()
    machine.measure(100, a=1.0, b=1.0, c=1.0)
    rounds = [tuple(machine.ran[i : i + 3]) for i in range(0, len(machine.ran), 3)]
    assert {tuple(sorted(r)) for r in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) > 3
    first = [sum(r[0] == name for r in rounds) for name in "abc"]
    assert min(first) >= 2  # no subject always comes first
    again = Machine()
    again.measure(100, a=1.0, b=1.0, c=1.0)
    assert again.ran == machine.ran


def test_steady_subjects_need_no_more_than_the_least_rounds() -> None:
    found = Machine().measure(1e9, original=2.0, pruned=1.0)
    assert found.timing("original") == Timing(2.0, 2.0, 2.0, ENOUGH)
    assert found.ratio("pruned", "original") == Ratio(0.5, 0.5, 0.5, ENOUGH)
    assert found.settled


def test_noise_is_measured_until_time_is_over() -> None:
    draw = random.Random(0)
    machine = Machine(lambda now: draw.uniform(1, 3))
    found = machine.measure(200.0, a=1.0, b=1.0)
    assert not found.settled
    assert 200 <= machine.now < 206  # it ends with the round that goes past the limit
    assert found.timing("a").low < 2 < found.timing("a").high


def test_six_rounds_are_made_however_long_they_take_and_never_more_than_the_most() -> None:
    assert Machine().measure(0.5, a=10.0).timing("a").repeats == FEWEST
    draw = random.Random(0)
    noisy = Machine(lambda now: draw.uniform(1, 3))
    assert noisy.measure(1e9, a=1.0).timing("a").repeats == MOST


def test_a_machine_that_slows_down_does_not_change_the_ratio() -> None:
    """It ends up ten times as slow: the seconds say little, and the one that ran last in the end would look the slower one."""
    found = Machine(lambda now: 1 + 9 * now / 200).measure(200.0, original=1.0, pruned=0.5)
    ratio, timing = found.ratio("pruned", "original"), found.timing("original")
    assert timing.high > 1.5 * timing.low
    assert ratio.low <= 0.5 <= ratio.high
    assert ratio.high - ratio.low < 0.05


def test_another_process_now_and_then_does_not_change_the_ratio() -> None:
    busy = Machine(lambda now: 5.0 if now % 20 < 8 else 1.0)
    ratio = busy.measure(300.0, original=1.0, pruned=0.9).ratio("pruned", "original")
    assert ratio.median == pytest.approx(0.9)
    assert ratio.high < 1


def test_ratios_are_of_the_same_round() -> None:
    found = Latency(1, {"a": (1.0, 2.0, 4.0), "b": (2.0, 2.0, 2.0)})
    assert found.ratio("b", "a") == Ratio(1.0, 0.5, 2.0, 3)
    assert found.timing("a") == Timing(2.0, 1.0, 4.0, 3)


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize(("cost", "calls"), [(0.0001, 1 + 5), (0.0005, 1 + 1), (0.0019, 1 + 1), (0.0025, 1), (3.0, 1)])
def test_short_calls_are_repeated_and_made_once_before(
    monkeypatch: pytest.MonkeyPatch, cost: float, calls: int
) -> None:
    machine = Machine()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=machine.clock))
    turn = turn_of(machine.turn("a", cost), (), {}, CPU, 1.0)
    warm_up = len(machine.ran)
    assert warm_up == max(3, 1 + math.ceil(module.WARM_UP / cost - 1e-6))
    assert turn() == pytest.approx(cost)
    assert len(machine.ran) - warm_up == calls


def test_on_a_gpu_every_call_is_waited_for_and_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, other: Event) -> float:
            return 0.125  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"wait for {device}"))
    turn = turn_of(lambda: log.append("call"), (), {}, torch.device("cuda", 0), 0.0)
    log.clear()
    assert turn() == pytest.approx(0.000125)
    once = ["record", "call", "record", "wait"]
    assert log == ["call", "wait for cuda:0", *(4 * once)]


# ---------------------------------------------------------------- networks


class Probe(nn.Module):
    """Notes how it was called: shape, threads, inference mode, training mode."""

    calls: ClassVar[set[tuple[tuple[int, ...], int, bool, bool]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Probe.calls.add((tuple(x.shape), torch.get_num_threads(), torch.is_inference_mode_enabled(), self.training))
        out: torch.Tensor = self.norm(self.conv(x))
        return out


def test_networks_run_as_copies_in_eval_mode_without_gradients_on_the_threads_asked_for() -> None:
    model, before = Probe().train(), torch.get_num_threads()
    state = copy.deepcopy(model.state_dict())
    Probe.calls.clear()
    found = measure_latency({"one": model, "two": model}, IMAGE, batch_sizes=(1, 4), threads=2, seconds=0.02)
    assert Probe.calls == {((1, 3, 8, 8), 2, True, False), ((4, 3, 8, 8), 2, True, False)}
    assert torch.get_num_threads() == before
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [latency.batch for latency in found] == [1, 4]
    for latency in found:
        timing = latency.timing("one")
        assert 0 < timing.low <= timing.median <= timing.high
        assert timing.repeats == latency.timing("two").repeats >= FEWEST


def test_twice_the_work_takes_longer() -> None:
    subjects = {"short": lambda x: time.sleep(0.001), "long": lambda x: time.sleep(0.004)}
    (found,) = measure_latency(subjects, IMAGE, seconds=0.1)
    assert 1.2 < found.ratio("long", "short").median < 8
    assert found.timing("short").median >= 0.001


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail(x: torch.Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_latency({"a": fail}, IMAGE, threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "settings", [{"seconds": 0.0}, {"batch_sizes": (0,)}, {"batch_sizes": ()}, {"threads": 0}], ids=str
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        measure_latency({"a": nn.Identity()}, IMAGE, **settings)


def test_no_subject_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 0 subjects"):
        measure_latency({}, IMAGE)


def test_pinned_threads_gives_the_number_in_use() -> None:
    before = torch.get_num_threads()
    with pinned_threads(None) as threads:
        assert threads == before
    with pinned_threads(3) as threads:
        assert threads == torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


# ---------------------------------------------------------------- batches


def test_a_batch_repeats_whatever_is_as_long_as_the_first_input() -> None:
    images, mask, table = torch.arange(6.0).reshape(2, 3), torch.tensor([True, False]), torch.zeros(7, 2)
    made = at_batch(ExampleInputs((images,), {"mask": mask, "more": (table, 5)}), 5)
    assert made.args[0].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert made.kwargs["mask"].tolist() == [True, False, True, False, True]
    assert made.kwargs["more"][0].shape == (7, 2)
    assert made.kwargs["more"][1] == 5
    made.args[0].zero_()
    made.kwargs["more"][0].fill_(1)
    assert images.sum() == 15
    assert table.sum() == 0


def test_a_batch_may_be_cut() -> None:
    assert at_batch(ExampleInputs((torch.arange(8),)), 3).args[0].tolist() == [0, 1, 2]


def test_a_list_of_images_is_a_batch() -> None:
    images = [torch.zeros(3, 4, 5), torch.ones(3, 6, 5)]
    made = at_batch(ExampleInputs((images, torch.zeros(2, 2))), 3)
    assert [tuple(image.shape) for image in made.args[0]] == [(3, 4, 5), (3, 6, 5), (3, 4, 5)]
    assert made.args[1].shape == (2, 2)


def test_inputs_without_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch 4: the example inputs hold no tensor"):
        at_batch(ExampleInputs((3, torch.tensor(1.0))), 4)
