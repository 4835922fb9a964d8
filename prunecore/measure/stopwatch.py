"""Operator calls timed alone, but as a network makes them: inputs just written, weights and code as the others left them.

A call that is only repeated finds its weights and its output in the cache, and looks up to twice as fast as it is in a network.
So calls take turns, those of like sizes together, and whole networks run in between, against which the tables are calibrated.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prunecore.errors import OutOfMemory
from prunecore.measure.calls import Form, Replay, Sizes, replay_of

Point = tuple[Form, Sizes]
Timer = Callable[[Callable[[], Any]], float]  # runs a call once; returns its seconds
Clock = Callable[[], float]

TOGETHER = 96  # calls a batch: libraries keep what they compile for a shape, oneDNN for the last 1024 of them
MEMORY = 1 << 29  # bytes of arguments a batch
ROUNDS = 3  # of a batch, in every pass
FEWEST = 3  # passes over all points, also where the time is over: what disturbs one of them does not last that long
MOST = 15


@dataclass(frozen=True)
class Timed:
    """seconds: of every call, the median of its turns. whole: of every network, in the same passes. failed: calls that
    cannot be made alone, and why."""

    seconds: Mapping[Point, float]
    whole: tuple[float, ...]
    passes: int
    failed: Mapping[Point, str] = field(default_factory=dict)


def timer_of(device: torch.device, threads: int) -> Timer:
    """The wall clock, on a GPU from when it is idle until it is idle again.

    Of one thread on the CPU it is that thread's own time: what other processes take in between is not the network's.
    """
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    now = time.thread_time if device.type == "cpu" and threads == 1 else time.perf_counter

    def run(call: Callable[[], Any]) -> float:
        wait()
        start = now()
        call()
        wait()
        return now() - start

    return run


def time_points(
    points: Sequence[Point],
    networks: Sequence[Callable[[], Any]],
    *,
    timer: Timer,
    device: torch.device,
    seconds: float,
    clock: Clock = time.monotonic,
) -> Timed:
    """Time every point, and the networks beside them, until `seconds` are over; at least 3 passes, at most 15.

    Points that follow each other share a batch: give those together that a network would run together.
    """
    found: dict[Point, list[float]] = {point: [] for point in points}
    failed: dict[Point, str] = {}
    totals: list[list[float]] = [[] for _ in networks]
    begun, passes = clock(), 0
    while passes < FEWEST or (passes < MOST and (clock() - begun) * (1 + 1 / passes) < seconds):
        passes += 1
        for batch in _batches([point for point in found if point not in failed]):
            made = _made(batch, failed, device)
            for network in networks:
                network()
            for _ in range(ROUNDS):
                for network, taken in zip(networks, totals, strict=True):
                    taken.append(timer(network))
                for point, (replay, ahead) in made.items():
                    replay.refresh()
                    ahead.call()  # the operator's code is in the cache, as behind a layer of its kind
                    found[point].append(timer(replay.call))
    middle = {point: statistics.median(values) for point, values in found.items() if values and point not in failed}
    return Timed(middle, tuple(statistics.median(taken) for taken in totals if taken), passes, failed)


def _made(batch: Sequence[Point], failed: dict[Point, str], device: torch.device) -> dict[Point, tuple[Replay, Replay]]:
    """Ready to be called, and called once, which compiles, allocates and picks algorithms; with the smallest of its form."""
    made: dict[Point, tuple[Replay, Replay]] = {}
    least: dict[Form, Sizes] = {}
    for form, sizes in batch:
        least[form] = min(sizes, least.get(form, sizes), key=math.prod)
    for form, sizes in batch:
        try:
            pair = replay_of(form, sizes, device), replay_of(form, least[form], device)
            for replay in pair:
                replay.call()
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError) as error:
            if (short := OutOfMemory.of(error, "time a layer alone")) is not None:
                raise short from error
            failed[form, sizes] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            )
            continue
        made[form, sizes] = pair
    return made


def _batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    batch: list[Point] = []
    held = 0
    for form, sizes in points:
        batch.append((form, sizes))
        held += 2 * form.bytes(sizes)
        if len(batch) == TOGETHER or held > MEMORY:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
