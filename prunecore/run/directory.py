"""Where a run lives. Files appear whole or not at all; one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from prunecore.errors import RunDirectoryError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, JOURNAL, RESULT, RECIPE, WEIGHTS = (
    "config.yaml",
    "journal.jsonl",
    "result.json",
    "recipe.json",
    "model.safetensors",
)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place; RunDirectoryError where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's own mode is for secrets
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        what = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else (error.strerror or str(error))
        raise RunDirectoryError(
            f"{path}: not written, {what}; free some space or choose another --out, then --resume"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


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


def prepare(path: Path, *, resume: bool) -> Path:
    """The directory of a new run (created; must not hold another) or of one to go on with (must hold one)."""
    if resume:
        if not (path / CONFIG).is_file():
            raise RunDirectoryError(f"--resume {path}: no {CONFIG} there; give the directory of a run that was started")
        return path
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"--out {path}: is a file, expected a directory")
    if (path / CONFIG).exists():
        raise RunDirectoryError(
            f"--out {path}: holds another run; go on with it by `prune run --resume {path}`, or choose another --out"
        )
    if path.exists() and any(path.iterdir()):
        raise RunDirectoryError(f"--out {path}: is not empty; choose a new directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"--out {path}: cannot be created: {error.strerror}") from error
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the directory: a second process gets one line. The kernel drops the lock with its holder, so none is stale."""
    lock = path / ".lock"
    with lock.open("a+") as file:
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
