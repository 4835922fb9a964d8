"""Names of devices: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`."""

from __future__ import annotations

import torch

from prunecore.errors import ConfigError


def available_devices() -> tuple[str, ...]:
    """The devices of this machine, the fastest kind first; `cpu` is always among them."""
    cuda = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is the current GPU where there is one, else `mps`, else `cpu`.

    Raises ConfigError where this machine has no such device; the message lists those that it has.
    """
    there = available_devices()
    if name in ("auto", "cuda") and there[0].startswith("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    wanted = there[0] if name == "auto" else name
    if wanted not in there:
        raise ConfigError(
            f"device {name!r} is not on this machine, which has: {', '.join(there)}; choose one: --set device={there[-1]}, or auto"
        )
    return torch.device(wanted)
