"""The devices of workers, as users name them."""

from __future__ import annotations

from collections.abc import Sequence

from prunecore.errors import ConfigError, listing


def worker_devices(workers: Sequence[int | str]) -> tuple[str, ...]:
    """One device a worker: `cpu`, `mps` or `cuda:N`; a number N, or its digits, is `cuda:N`; `cuda` is the first.

    Raises ConfigError where this machine lacks some of them; the message lists what it has.
    """
    wanted = tuple(_named(worker) for worker in workers)
    if set(wanted) <= {"cpu"}:  # torch takes seconds to import, and is not needed to know this
        return wanted
    from prunecore.training.devices import available_devices

    there = available_devices()
    missing = [name for name in dict.fromkeys(wanted) if name not in there]
    if missing:
        mended = ",".join(name if name in there else there[0] for name in wanted)
        raise ConfigError(
            f"workers: this machine has no {listing(missing)} (asked for: {listing(wanted)}); it has {listing(there)}; "
            f"choose for example --set executor.workers=[{mended}]"
        )
    return wanted


def _named(worker: int | str) -> str:
    text = str(worker).strip().lower()
    return f"cuda:{text}" if text.isdecimal() else {"cuda": "cuda:0"}.get(text, text)
