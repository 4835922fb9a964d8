"""Measured latency: several subjects in turns, medians with intervals, and the ratio of turns that ran side by side.

Another process, a changing clock rate, a hot machine: what disturbs a measurement lasts longer than one call. So the subjects
take turns in rounds, in an order drawn anew every round, and are compared within rounds. What slows the machine down slows
all subjects of a round, and their ratio holds where the seconds do not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prunecore.errors import ConfigError
from prunecore.measure.batch import at_batch
from prunecore.measure.intervals import FEWEST, Interval, median_interval, paired_ratios
from prunecore.surgery import copy_model
from prunecore.types import ExampleInputs

WITHIN = 0.02  # a measurement ends when its intervals are this narrow, relative to their medians
TURN = 0.0005  # seconds: shorter calls are repeated within a turn, so that the clock's own cost and grain do not count
SHORT = 0.002  # seconds: a call so short feels the caches that another subject has left; it is made once before the clock runs
ENOUGH = 20  # rounds before narrow intervals may end a measurement: a few quiet rounds prove little
MOST = 5000  # rounds
WARM_UP = 0.05  # of the seconds of a measurement, for each subject

Turn = Callable[[], float]  # runs a subject for about `TURN` seconds; returns seconds per call
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median of the rounds, the ends of its 95 % interval, and how many rounds there were."""

    median: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True)
class Ratio:
    """Seconds of one subject over seconds of another in the same round: median, 95 % interval, how many rounds."""

    median: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True)
class Latency:
    """One measurement. samples: by subject, seconds per call in every round, in the order of the rounds."""

    batch: int
    samples: Mapping[str, Sequence[float]]

    def timing(self, subject: str) -> Timing:
        """Of one subject; KeyError where there is none of that name."""
        found = median_interval(self.samples[subject])
        return Timing(found.median, found.low, found.high, len(self.samples[subject]))

    def ratio(self, subject: str, base: str) -> Ratio:
        """Of one subject to another, paired by rounds; below 1: the subject is faster."""
        found = median_interval(paired_ratios(self.samples[subject], self.samples[base]))
        return Ratio(found.median, found.low, found.high, len(self.samples[subject]))

    @property
    def settled(self) -> bool:
        """Whether every interval is as narrow as `WITHIN`; if not, time ran out before."""
        return all(interval.width <= WITHIN for interval in _intervals(self.samples))


def measure_latency(
    subjects: Mapping[str, Callable[..., Any]],
    inputs: ExampleInputs,
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    seconds: float = 5.0,
    device: torch.device | str = "cpu",
) -> tuple[Latency, ...]:
    """Seconds that each subject takes for `inputs`, one `Latency` a batch size.

    subjects: networks, of which copies are run in eval mode on `device`, or callables that take the inputs as they are
    (compiled networks, sessions of other runtimes). threads: of torch on the CPU, as they are where None; restored
    afterwards. seconds: the limit for one batch size, without the first call of each subject; at least six rounds are
    made, however long they take. Raises ConfigError for impossible settings, and whatever the subjects raise.
    """
    place = torch.device(device)
    if not subjects or seconds <= 0 or min(batch_sizes, default=0) < 1:
        got = f"{len(subjects)} subjects, {seconds} seconds, batch sizes {tuple(batch_sizes)}"
        raise ConfigError(f"latency: got {got}; expected a subject, a time above 0 and batch sizes from 1")
    ready = {name: _ready(subject, place) for name, subject in subjects.items()}
    # made outside inference mode: compiled code is for either kind of tensor, and callers have the ordinary kind
    batches = {size: moved(at_batch(inputs, size), place) for size in batch_sizes}
    found = []
    with pinned_threads(threads), torch.inference_mode(), _current(place):
        for size, (args, kwargs) in batches.items():
            turns = {name: turn_of(call, args, kwargs, place, seconds) for name, call in ready.items()}
            found.append(Latency(size, interleave(turns, seconds * (1 - WARM_UP * len(turns)))))
    return tuple(found)


def interleave(
    turns: Mapping[str, Turn], seconds: float, *, seed: int = 0, clock: Clock = time.perf_counter
) -> dict[str, tuple[float, ...]]:
    """Every subject has one turn a round, in an order drawn anew, until the intervals are narrow or `seconds` are over."""
    draw, order = random.Random(seed), list(turns)
    found: dict[str, list[float]] = {name: [] for name in turns}
    end, look = clock() + seconds, ENOUGH
    for number in range(1, MOST + 1):
        draw.shuffle(order)
        for name in order:
            found[name].append(turns[name]())
        if number >= FEWEST and clock() >= end:
            break
        if number == look:  # seldom: who looks after every round stops at the first lucky streak
            if all(interval.width <= WITHIN for interval in _intervals(found)):
                break
            look = math.ceil(look * 1.5)
    return {name: tuple(values) for name, values in found.items()}


def _intervals(samples: Mapping[str, Sequence[float]]) -> Iterator[Interval]:
    """Of every subject's seconds, and of the ratio of each to the first."""
    first, *others = samples.values()
    yield from map(median_interval, (first, *others))
    yield from (median_interval(paired_ratios(values, first)) for values in others)


# ---------------------------------------------------------------- one subject's turn


def turn_of(
    call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], device: torch.device, seconds: float
) -> Turn:
    """Warm `call` up and say how a turn of it is run."""
    once = _timed_on_gpu if device.type == "cuda" else _timed_by_clock

    def run(calls: int, before: int = 0) -> float:
        for _ in range(before):
            call(*args, **kwargs)
        return once(lambda: call(*args, **kwargs), calls, device)

    run(1)  # compiles, allocates, picks algorithms
    fastest = math.inf
    for _ in _until(seconds * WARM_UP):
        fastest = min(fastest, run(1))
    calls, before = max(1, round(TURN / max(fastest, 1e-7))), int(fastest < SHORT)
    return lambda: run(calls, before)


def _until(seconds: float, *, least: int = 2) -> Iterator[int]:
    end, number = time.perf_counter() + seconds, 0
    while number < least or time.perf_counter() < end:
        yield number
        number += 1


def _timed_by_clock(call: Callable[[], Any], calls: int, device: torch.device) -> float:
    wait = torch.mps.synchronize if device.type == "mps" else lambda: None
    start = time.perf_counter()
    for _ in range(calls):
        call()
        wait()
    return (time.perf_counter() - start) / calls


def _timed_on_gpu(call: Callable[[], Any], calls: int, device: torch.device) -> float:
    """By events in the stream. Every call is waited for: queued calls would give throughput, with the launches hidden."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    total = 0.0
    torch.cuda.synchronize(device)
    for _ in range(calls):
        start.record()
        call()
        end.record()
        end.synchronize()
        total += start.elapsed_time(end)
    return total / calls / 1000


# ---------------------------------------------------------------- what is run, on what


@contextmanager
def pinned_threads(threads: int | None) -> Iterator[int]:
    """torch with so many threads on the CPU, restored afterwards; gives the number in use. ConfigError below 1."""
    before = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise ConfigError(f"threads: got {threads}, expected at least 1")
    try:
        torch.set_num_threads(threads or before)
        yield threads or before
    finally:
        torch.set_num_threads(before)


def _ready(subject: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    return copy_model(subject).eval().to(device) if isinstance(subject, nn.Module) else subject


def moved(inputs: ExampleInputs, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    moved: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(
        Tensor, lambda t: t.to(device), (tuple(inputs.args), dict(inputs.kwargs))
    )
    return moved


def _current(device: torch.device) -> Any:
    """Events are of the current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
