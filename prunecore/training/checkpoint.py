"""The state of a training in a file, which appears whole or not at all."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import torch

from prunecore.errors import RunDirectoryError
from prunecore.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """The state as a whole file. RunDirectoryError where the disk refuses (full, read-only)."""
    buffer = io.BytesIO()  # torch's own writer hides what the disk said
    torch.save(dict(state), buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))


def read_state(path: Path) -> Mapping[str, Any] | None:
    """The state in `path`, on the CPU; None where there is no such file. RunDirectoryError where it is damaged."""
    if not path.exists():
        return None
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as fault:
        raise RunDirectoryError(f"{path} is not a training state ({fault}); delete it to train anew") from fault
    return state
