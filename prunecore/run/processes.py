"""The processes of `accelerate launch`: all of them compute, the first one writes, and all read what it wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

LIMIT = timedelta(hours=2)  # longer than any stage of its own that one process may be behind by
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
    try:
        yield World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        if not already:
            torch.distributed.destroy_process_group()
            PartialState._reset_state()
