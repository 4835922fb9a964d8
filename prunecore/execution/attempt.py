"""One attempt at a job, the same in this process, in a local worker and on a cluster. torch is imported only where the setup has it.

Payloads and values travel as plain pickle bytes: 20 MB of tensors take 19 ms to write and 14 ms to read, and nothing that a
killed worker could leave behind (shared memory, descriptors in flight) is involved.
"""

from __future__ import annotations

import gc
import pickle
import random
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from prunecore.errors import OutOfMemory
from prunecore.execution.contract import Fault, Setup, WorkerError


@dataclass(frozen=True)
class Attempt:
    """What a worker made of a job. value: pickled; None with a fault. poisoned: this process can do no further job."""

    value: bytes | None
    fault: Fault | None
    seconds: float
    poisoned: bool = False


def encode(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


def decode(data: bytes | bytearray) -> Any:
    """What `encode` was given. Only for bytes that a process of this session wrote."""
    return pickle.loads(data)


def pickled(setup: Setup) -> bytes:
    """For a worker elsewhere; WorkerError where that cannot be."""
    try:
        return encode(setup)
    except Exception as error:
        raise WorkerError(
            f"the setup of workers cannot be pickled: {type(error).__name__}: {error}; `initialise` and `work` must be functions "
            "of a module, and `args` plain values, tensors or modules"
        ) from error


def initialised(setup: Setup, device: str) -> Any:
    """The state of a worker on `device`."""
    with _seeded(setup, setup.seed, device):
        return setup.initialise(device, *setup.args)


def attempt(setup: Setup, state: Any, payload: bytes | bytearray, *, seed: int, device: str) -> Attempt:
    """Do a job. Whatever `work` raises becomes a fault; only KeyboardInterrupt passes."""
    started = time.monotonic()
    doing = "read the payload"
    try:
        given = decode(payload)
        doing = "do the job"
        with _seeded(setup, seed, device):
            value = setup.work(state, given)
        doing = "pickle the value"
        return Attempt(encode(value), None, time.monotonic() - started)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: `work` would only do it again
        fault, poisoned = fault_of(error, doing), _is_poison(error)
    _forget()
    return Attempt(None, fault, time.monotonic() - started, poisoned)


def fault_of(error: BaseException, doing: str) -> Fault:
    """The fault that `error` is, where it ended `doing` ("read the payload")."""
    text = "".join(traceback.format_exception(error))
    memory = OutOfMemory.of(error, doing)
    if memory is not None:
        return Fault("memory", str(memory), text)
    first = next(iter(str(error).splitlines()), "")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return Fault("error", what if doing == "do the job" else f"cannot {doing}: {what}", text)


def _is_poison(error: BaseException) -> bool:
    """Whether the CUDA context is lost: every later call of this process would fail with the same error."""
    return "CUDA error" in str(error) and OutOfMemory.of(error, "") is None


def _forget() -> None:
    """Give back the memory that the frames of an exception held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _seeded(setup: Setup, seed: int, device: str) -> AbstractContextManager[None]:
    if not setup.torch:
        return _python_seeded(seed)
    import torch

    from prunecore.training.seeds import seeded

    return seeded(seed, torch.device(device))


@contextmanager
def _python_seeded(seed: int) -> Iterator[None]:
    """Python's generator, and numpy's where it is loaded."""
    numpy = sys.modules.get("numpy")
    states = (random.getstate(), numpy.random.get_state() if numpy else None)
    random.seed(seed)
    if numpy:
        numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
