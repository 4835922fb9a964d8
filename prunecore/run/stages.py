"""Stages whose results are kept: what a killed run has finished is read back, what it was in is done again.

A stage is deterministic given its name, so `compute` may be replaced by its recorded result. Where several processes run
together, all compute, the first one records, and all go on from the record.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecore.run.directory import JOURNAL, read_weights, write_weights
from prunecore.run.journal import Journal
from prunecore.run.processes import World
from prunecore.surgery import recipe_from_dict, recipe_to_dict
from prunecore.types import Recipe

if TYPE_CHECKING:
    from torch import nn


_ALONE = World()


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a stage leaves behind. recipe: relative to the network as loaded. data: plain values only."""

    model: nn.Module
    recipe: Recipe = Recipe()
    data: Mapping[str, Any] = field(default_factory=dict)


class Kept:
    """What a stage left, as it stands on the disk: `recipe` and `data` as of its snapshot; `model` is read when it is asked for."""

    def __init__(self, recipe: Recipe, data: Mapping[str, Any], read: Callable[[], nn.Module]) -> None:
        self.recipe = recipe
        self.data = data
        self._read = read
        self._model: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The network, the same object until it is let go."""
        if self._model is None:
            self._model = self._read()
        return self._model

    def __call__(self) -> nn.Module:
        return self.model

    def let_go(self) -> None:
        """Hold no network; who asks for it again has it read again."""
        self._model = None


class Stages:
    """Runs stages by name and keeps what they leave in `directory`, which need not exist before the first one."""

    def __init__(
        self,
        directory: Path,
        rebuild: Callable[[Recipe], nn.Module],
        world: World = _ALONE,
        *,
        started: float | None = None,
    ) -> None:
        self.directory = directory
        self._rebuild = rebuild
        self._world = world
        self._started = time.monotonic() if started is None else started

    @cached_property
    def journal(self) -> Journal:
        """Opened when it is first asked for: by then the directory is made and held. All have read it before one writes."""
        opened = Journal(self.directory / JOURNAL, writes=self._world.first)
        self._world.meet()
        return opened

    @cached_property
    def _before(self) -> float:
        """Seconds that earlier processes spent on this run, as far as they recorded it."""
        return max((float(r.get("at", 0.0)) for r in self.journal.records), default=0.0)

    @property
    def seconds(self) -> float:
        """How long the run has taken, interruptions left out."""
        return self._before + time.monotonic() - self._started

    def run(self, name: str, compute: Callable[[], Snapshot]) -> Kept:
        """The recorded result of stage `name`, or that of `compute`, recorded."""
        record: Mapping[str, Any] | None = self.journal.find("stage", name)
        if record is None:
            began = time.monotonic()
            snapshot = compute()
            checkpoint = _checkpoint(name)
            if self._world.first:
                write_weights(self.directory / checkpoint, snapshot.model)
            record = self._recorded(
                "stage",
                name,
                began,
                recipe=recipe_to_dict(snapshot.recipe),
                checkpoint=checkpoint,
                data=dict(snapshot.data),
            )
            self.drop_scratch()
        # read back also when it was computed just now: what follows sees the same network whether or not the run was cut off
        recipe, place = recipe_from_dict(record["recipe"]), self.directory / record["checkpoint"]

        def read() -> nn.Module:
            model = self._rebuild(recipe)
            model.load_state_dict(read_weights(place))
            return model

        return Kept(recipe, record["data"], read)

    def drop(self, *names: str) -> None:
        """Remove the weights that these stages left: nothing that comes needs them, also where the run is cut off and goes on.

        A search of hundreds of steps would fill the disk.
        """
        self._world.meet()  # the others may still have to read them
        if self._world.first:
            for name in names:
                (self.directory / _checkpoint(name)).unlink(missing_ok=True)

    def drop_scratch(self) -> None:
        """Remove what stages that are recorded by now have left of their inside; also where a kill came before that."""
        self._world.meet()  # the others may still have to read it
        if self._world.first:
            for left in (self.directory / "checkpoints").glob("*.partial.pt"):
                left.unlink()

    def value(
        self, name: str, compute: Callable[[], Mapping[str, Any]], *, began: float | None = None
    ) -> Mapping[str, Any]:
        """The same for a stage that yields plain values only. began: by the monotonic clock, where the work came before."""
        record: Mapping[str, Any] | None = self.journal.find("value", name)
        if record is None:
            began = time.monotonic() if began is None else began
            record = self._recorded("value", name, began, data=dict(compute()))
        data: Mapping[str, Any] = record["data"]
        return data

    def aside(self, name: str, data: Mapping[str, Any]) -> None:
        """Record once what no stage depends on; called by the first process alone."""
        if self.journal.find("value", name) is None:
            self.journal.append(
                {"event": "value", "name": name, "at": round(self.seconds, 3), "seconds": 0.0, "data": data}
            )

    def _recorded(self, event: str, name: str, began: float, **record: Any) -> Mapping[str, Any]:
        """Append a record; every process goes on with that of the first. at: seconds of the run; seconds: of the stage."""
        clock = {"at": round(self.seconds, 3), "seconds": round(time.monotonic() - began, 3)}
        self.journal.append({"event": event, "name": name, **clock, **record})
        found: Mapping[str, Any] = self._world.agreed(self.journal.find(event, name))
        self.journal.replace(found)
        return found


def _checkpoint(name: str) -> str:
    return f"checkpoints/{_slug(name)}.safetensors"


def scratch_file(directory: Path, name: str) -> Path:
    """A file for the inside of a stage (optimiser state between epochs); gone once the stage is recorded."""
    return directory / "checkpoints" / f"{_slug(name)}.partial.pt"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
