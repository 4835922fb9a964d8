"""Operator calls timed alone, in turns with the whole network: each finds the caches as the others have left them."""

from __future__ import annotations

import math
import random
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

TOGETHER = 96  # calls a batch: libraries keep what they compile for a shape, oneDNN for the last 1024 of them
MEMORY = 1 << 29  # bytes of arguments a batch
FEWEST = 3  # passes over all points, also where the time is over
MOST = 15


@dataclass(frozen=True)
class Timed:
    """seconds: of every call, the median of the passes. whole: of the network in the same passes. failed: calls that
    cannot be made alone, and why."""

    seconds: Mapping[Point, float]
    whole: float
    passes: int
    failed: Mapping[Point, str] = field(default_factory=dict)


def timer_of(device: torch.device) -> Timer:
    """The wall clock; on CUDA from an idle GPU until it is idle again."""
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.mps.synchronize if device.type == "mps" else None

    def run(call: Callable[[], Any]) -> float:
        if wait is not None:
            wait()
        start = time.perf_counter()
        call()
        if wait is not None:
            wait()
        return time.perf_counter() - start

    return run


def time_points(
    points: Sequence[Point],
    whole: Callable[[], Any],
    *,
    device: torch.device,
    seconds: float,
    timer: Timer | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Timed:
    """Time every point, and `whole` beside them, until `seconds` are over; at least 3 passes, at most 15.

    Before a call runs its inputs are written, as the layer before it does; its weights are wherever the caches have them by
    then. Repeated alone, layers whose weights fit into a cache would look up to twice as fast as they are in a network.
    """
    timed, draw, end = timer or timer_of(device), random.Random(0), clock() + seconds
    found: dict[Point, list[float]] = {point: [] for point in dict.fromkeys(points)}
    failed: dict[Point, str] = {}
    totals: list[float] = []
    order = list(found)
    begun, passes = clock(), 0
    with torch.inference_mode():
        while passes < FEWEST or (passes < MOST and clock() + (clock() - begun) / passes < end):
            draw.shuffle(order)
            for batch in _batches(order):
                made = _made(batch, failed, device)
                whole()
                totals.append(timed(whole))
                for point, replay in made.items():
                    replay.refresh()
                    found[point].append(timed(replay.call))
                totals.append(timed(whole))
            order = [point for point in order if point not in failed]
            passes += 1
    middle = {point: statistics.median(values) for point, values in found.items() if values and point not in failed}
    return Timed(middle, statistics.median(totals) if totals else math.nan, passes, failed)


def _made(batch: Sequence[Point], failed: dict[Point, str], device: torch.device) -> dict[Point, Replay]:
    """Ready to be called, and called once: that compiles, allocates, picks algorithms."""
    made: dict[Point, Replay] = {}
    for form, sizes in batch:
        try:
            replay = replay_of(form, sizes, device)
            replay.call()
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError) as error:
            if (short := OutOfMemory.of(error, "time a layer alone")) is not None:
                raise short from error
            failed[form, sizes] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            )
            continue
        made[form, sizes] = replay
    return made


def _batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    batch: list[Point] = []
    held = 0
    for form, sizes in points:
        batch.append((form, sizes))
        held += form.bytes(sizes)
        if len(batch) == TOGETHER or held > MEMORY:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
