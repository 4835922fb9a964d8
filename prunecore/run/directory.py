"""Where a run lives. Files appear whole or not at all; one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from prunecore.errors import RunDirectoryError
from prunecore.files import TEMPORARY, write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunecore.run.processes import World

CONFIG, RESULT, RECIPE, WEIGHTS = "config.yaml", "result.json", "recipe.json", "model.safetensors"
LOCK, JOURNAL = ".lock", "journal.jsonl"
_GLANCE = 0.001  # s; about as long as `is_locked` has the lock
_LOOKING, _FORKING = 5.0, 0.05  # s; patience with those that only look, and with forks that have not let go yet


def write_weights(path: Path, model: nn.Module) -> None:
    """The state dict of `model` as safetensors; tensors that share memory are written once a name."""
    from safetensors.torch import save

    write_whole(path, lambda file: file.write(save(state_of(model))))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, each tensor contiguous and with storage of its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


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


def check(path: Path, *, resume: bool, shared: bool = False) -> None:
    """RunDirectoryError unless a new run may have `path`, or, to go on with, it holds one. Makes nothing.

    shared: other files may be there, but none that a run writes.
    """
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
    taken = [name for name in (RESULT, RECIPE, WEIGHTS, JOURNAL) if (path / name).exists()]
    if shared and taken:
        raise RunDirectoryError(f"--out {path}: holds {taken[0]} of another run; choose another --out")
    if not shared and path.exists() and any(not _is_ours(entry.name) for entry in path.iterdir()):
        raise RunDirectoryError(f"--out {path}: is not empty; choose a new directory")


def _is_ours(name: str) -> bool:
    """Whether a run that never began may have left it."""
    return name == LOCK or (name.startswith(".") and name.endswith(TEMPORARY))


def is_run(path: Path) -> bool:
    """Whether a run was started there; other tools have a file of that name too."""
    return (path / CONFIG).is_file() and any((path / name).exists() for name in (LOCK, JOURNAL, RESULT))


def make(path: Path) -> None:
    """Make the directory, where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"--out {path}: cannot be created: {error.strerror}") from error


@contextmanager
def held(path: Path, world: World) -> Iterator[None]:
    """Make the directory and hold it, in the first process of those that run together; what a killed process left half
    written is taken away."""
    if not world.first:
        world.meet()
        yield
        return
    make(path)
    with locked(path):
        for left in (*path.glob(f".*{TEMPORARY}"), *path.glob(f"checkpoints/.*{TEMPORARY}")):
            left.unlink()
        world.meet()
        yield


def finished(path: Path) -> dict[str, Any] | None:
    """The result of a run that has come to its end; None where it has not."""
    if not (path / RESULT).is_file():
        return None
    found: dict[str, Any] = json.loads((path / RESULT).read_text(encoding="utf-8"))
    return found


def is_locked(path: Path) -> bool:
    """Whether a process is running there now."""
    try:
        with (path / LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the directory: a second process gets one line. The kernel drops the lock with its holder, so none is stale."""
    try:
        opened = (path / LOCK).open("a+")
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error
    with opened as file:
        # a forked process (they load data) has the lock too, and may outlive this one for seconds
        os.register_at_fork(after_in_child=file.close)
        try:
            _take(file, path)
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be locked: {error.strerror}; choose another --out") from error
        try:
            yield
        finally:
            if not file.closed:
                fcntl.flock(file, fcntl.LOCK_UN)


def _take(file: IO[str], path: Path) -> None:
    """Who runs has the lock alone; who only looks (`is_locked`) shares it for a moment: where it can be shared, nobody runs."""
    began = time.monotonic()
    while not _locks(file, fcntl.LOCK_EX):
        patience = _LOOKING if _locks(file, fcntl.LOCK_SH) else _FORKING
        if time.monotonic() - began > patience:
            raise RunDirectoryError(f"{path}: another process is running here; wait for it or choose another --out")
        fcntl.flock(file, fcntl.LOCK_UN)
        time.sleep(_GLANCE)


def _locks(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
