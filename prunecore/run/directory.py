"""Where a run lives. Files appear whole or not at all; one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prunecore.errors import RunDirectoryError
from prunecore.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, RESULT, RECIPE, WEIGHTS = "config.yaml", "result.json", "recipe.json", "model.safetensors"
LOCK = ".lock"


def write_weights(path: Path, model: nn.Module) -> None:
    """The state dict of `model` as safetensors; tensors that share memory are written once a name."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_whole(path, lambda file: file.write(save(state)))


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file; RunDirectoryError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from error


def free_directory(base: Path) -> Path:
    """`base`, or `base-2`, `base-3` …: the first that does not exist or is empty."""
    number, path = 1, base
    while path.exists() and any(path.iterdir()):
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def check(path: Path, *, resume: bool) -> None:
    """RunDirectoryError unless a new run may have `path`, or, to go on with, it holds one. Makes nothing."""
    if resume:
        if not (path / CONFIG).is_file():
            raise RunDirectoryError(f"--resume {path}: no {CONFIG} there; give the directory of a run that was started")
        return
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"--out {path}: is a file, expected a directory")
    if (path / CONFIG).exists():
        raise RunDirectoryError(
            f"--out {path}: holds another run; go on with it by `prune run --resume {path}`, or choose another --out"
        )
    if path.exists() and any(entry.name != LOCK for entry in path.iterdir()):
        raise RunDirectoryError(f"--out {path}: is not empty; choose a new directory")


def make(path: Path) -> None:
    """Make the directory, where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"--out {path}: cannot be created: {error.strerror}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the directory: a second process gets one line. The kernel drops the lock with its holder, so none is stale."""
    try:
        opened = (path / LOCK).open("a+")
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunDirectoryError(
                f"{path}: another process is running here; wait for it or choose another --out"
            ) from None
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
