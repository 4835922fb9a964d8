"""Seeds: every stage derives its own from the run's seed, so that no stage depends on how much came before it."""

from __future__ import annotations

import random
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2**63) from the run's seed and the names and numbers of a stage; the same on every machine."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in (seed, *parts)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of torch (CPU and `device`), numpy and python; afterwards they are as they were before."""
    place = device or torch.device("cpu")
    states = (random.getstate(), np.random.get_state(), torch.mps.get_rng_state() if place.type == "mps" else None)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            if states[2] is not None:
                torch.mps.set_rng_state(states[2])
