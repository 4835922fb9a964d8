"""Batches from other processes, each waited for within a limit.

A process that is stopped, or stuck in a read, would hold torch's loader up for ever. (Its own `timeout` covers the wait for a
message, but not that for the tensors that the message names, nor python's own for its processes when it ends.) Here such
processes are killed, which ends every wait for them.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from prunecore.config.training import LoadingSettings
from prunecore.errors import StalledError

Item = TypeVar("Item")


class PatientLoader(DataLoader[Any]):
    """A loader whose batches are waited for no longer than `loading.timeout`."""

    def __init__(self, dataset: Dataset[Any], *, loading: LoadingSettings, **more: Any) -> None:
        super().__init__(dataset, num_workers=loading.workers, **more)
        self._loading = loading

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return patient(super().__iter__, self._loading)


def patient(begin: Callable[[], Iterator[Item]], loading: LoadingSettings) -> Iterator[Item]:
    """What `begin()` gives, whose processes `loading` describes; StalledError where one item takes longer than its `timeout`.

    However the iteration ends, none of the processes is left.
    """
    if not loading.workers:
        yield from begin()
        return
    watch = _Watch(loading.timeout)
    items: Iterator[Item] | None = None
    try:
        with watch:
            items = begin()
        while True:
            with watch:
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    except Exception as error:
        if not watch.fired:
            raise
        raise StalledError(
            f"the {loading.workers} processes that load data gave no batch in {loading.timeout:g} s and were ended; where they "
            "are only slow, raise `timeout` beside `workers`"
        ) from error
    finally:
        items = None  # torch asks its processes to leave
        watch.close()


class _Watch:
    """Kills the processes that were started inside it, where one stay there takes longer than `limit` seconds.

    Others may start meanwhile outside of it: two loaders in turns. It counts its own ticks, so that time in which this process
    was stopped (Ctrl-Z, a laptop asleep) does not count.
    """

    def __init__(self, limit: float) -> None:
        self.fired = False
        self._limit = limit
        self._tick = min(0.5, limit / 4)
        self._outside: set[BaseProcess] = set()
        self._ours: set[BaseProcess] = set()
        self._ticks = 0
        self._inside = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        # where nobody closes it, python would wait for its processes without a limit when it ends
        self._at_exit = Finalize(None, self.close, exitpriority=100)

    def __enter__(self) -> None:
        self._outside = set(multiprocessing.active_children()) - self._ours
        self._ticks, self._inside = 0, True
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def __exit__(self, *fault: object) -> None:
        self._inside = False
        self._ours |= self._started()

    def close(self) -> None:
        """End what is left: where an error holds torch's iterator, or where a process that should leave is stopped."""
        self._closed.set()
        self._at_exit.cancel()
        for process in self._ours:
            with suppress(RuntimeError):  # torch's, of the death of a process that it still counts on
                process.kill()
                process.join(1.0)

    def _look(self) -> None:
        while not self._closed.wait(self._tick):
            self._ticks += 1
            if self._inside and self._ticks * self._tick >= self._limit:
                self.fired = True
                for process in self._started():
                    process.kill()

    def _started(self) -> set[BaseProcess]:
        """Of those that live now, asked from inside. Torch's processes are daemons."""
        return {p for p in multiprocessing.active_children() if p.daemon and p not in self._outside}
