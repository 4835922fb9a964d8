"""The processes of `accelerate launch`: all of them compute, the first one writes, and all read what it wrote."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prunecore.errors import PrunecoreError

LIMIT = timedelta(hours=2)  # longer than any stage of its own that one process may be behind by
_ASIDE = timedelta(seconds=5)  # for the question whether the others are still there
_SILENT = re.compile("timed out|timeout", re.IGNORECASE)  # as gloo and NCCL say it
_MUTE = "another process of this run has given no sign of life within the limit"
_MEND = "end what is left of it, then --resume"
_MARKS = ("RANK", "WORLD_SIZE", "MASTER_ADDR")


@dataclass(frozen=True)
class World:
    """rank: of this process, from 0. size: how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until every process is here; RuntimeError where one does not come within the limit."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.barrier()

    def agreed(self, value: Any) -> Any:
        """What the first process has for `value`."""
        if self.size == 1:
            return value
        import torch.distributed

        told = [value]
        torch.distributed.broadcast_object_list(told, src=0)
        return told[0]


def launched() -> bool:
    """Whether a launcher started several processes of this program."""
    return all(mark in os.environ for mark in _MARKS) and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The processes that were launched together, connected while inside; one alone where there was no launcher."""
    if not launched():
        yield World()
        return
    import torch.distributed
    from accelerate import PartialState

    already = torch.distributed.is_initialized()
    if not already:
        PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=LIMIT)
    world = World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    if already:
        yield world
        return
    aside = torch.distributed.new_group(backend="gloo", timeout=_ASIDE)  # apart from what the others may be waiting in
    try:
        yield world
    except Exception as error:
        other = _told_once(error, world, aside)
        if other is None:
            raise
        raise other from error
    finally:
        torch.distributed.destroy_process_group()
        PartialState._reset_state()


def _told_once(error: Exception, world: World, aside: Any) -> BaseException | None:
    """What a process ends with in place of `error`, so that one of them says why: that which failed, or the first of them."""
    expected = isinstance(error, PrunecoreError)
    if expected and world.first:
        return None
    if not (expected or isinstance(error, RuntimeError)):
        return None
    if not _others_ended(aside):
        return None if expected or not _SILENT.search(str(error)) else PrunecoreError(f"{_MUTE} ({LIMIT}); {_MEND}")
    if world.first:
        return PrunecoreError("another process of this run has ended, see what it says; then --resume")
    return SystemExit(error.exit_code if isinstance(error, PrunecoreError) else 1)


def _others_ended(aside: Any) -> bool:
    """Whether a process that one waits for has gone, or has failed as well; those that are at work do not answer in time."""
    import torch.distributed

    asked = time.monotonic()
    try:
        torch.distributed.barrier(aside)
    except RuntimeError:
        return time.monotonic() - asked < _ASIDE.total_seconds() / 2
    return True
