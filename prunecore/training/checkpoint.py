"""The state of a training in a file, which appears whole or not at all."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import torch

from prunecore.errors import RunDirectoryError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` beside `path`, then put it in its place. RunDirectoryError where the disk refuses (full, read-only)."""
    partial = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as fault:  # torch's writer raises RuntimeError when a write fails
        partial.unlink(missing_ok=True)
        raise RunDirectoryError(f"the training state cannot be written to {path}: {fault}; free some space") from fault


def read_state(path: Path) -> Mapping[str, Any] | None:
    """The state in `path`, on the CPU; None where there is no such file. RunDirectoryError where it is damaged."""
    if not path.exists():
        return None
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as fault:
        raise RunDirectoryError(f"{path} is not a training state ({fault}); delete it to train anew") from fault
    return state
