"""Stages whose results are kept: what a killed run has finished is read back, what it was in is done again.

A stage is deterministic given its name, so `compute` may be replaced by its recorded result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecore.run.directory import read_weights, write_weights
from prunecore.run.journal import Journal
from prunecore.surgery import recipe_from_dict, recipe_to_dict
from prunecore.types import Recipe

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a stage leaves behind. recipe: relative to the network as loaded. data: plain values only."""

    model: nn.Module
    recipe: Recipe = Recipe()
    data: Mapping[str, Any] = field(default_factory=dict)


class Stages:
    """Runs stages by name and keeps what they leave in `directory`, which need not exist before the first one."""

    def __init__(self, directory: Path, rebuild: Callable[[Recipe], nn.Module]) -> None:
        self._directory = directory
        self._rebuild = rebuild

    @cached_property
    def journal(self) -> Journal:
        """Opened when it is first asked for: by then the directory is made and held."""
        return Journal(self._directory / "journal.jsonl")

    def run(self, name: str, compute: Callable[[], Snapshot]) -> Snapshot:
        """The recorded result of stage `name`, or that of `compute`, recorded."""
        record = self.journal.find("stage", name)
        if record is None:
            snapshot = compute()
            checkpoint = f"checkpoints/{_slug(name)}.safetensors"
            write_weights(self._directory / checkpoint, snapshot.model)
            record = {"recipe": recipe_to_dict(snapshot.recipe), "checkpoint": checkpoint, "data": dict(snapshot.data)}
            self.journal.append({"event": "stage", "name": name, **record})
            for left in (self._directory / "checkpoints").glob("*.partial.pt"):
                left.unlink()
        # read back also when it was computed just now: what follows sees the same network whether or not the run was cut off
        recipe = recipe_from_dict(record["recipe"])
        model = self._rebuild(recipe)
        model.load_state_dict(read_weights(self._directory / record["checkpoint"]))
        return Snapshot(model, recipe, record["data"])

    def value(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The same for a stage that yields plain values only."""
        record = self.journal.find("value", name)
        if record is None:
            record = {"data": dict(compute())}
            self.journal.append({"event": "value", "name": name, **record})
        data: Mapping[str, Any] = record["data"]
        return data


def scratch_file(directory: Path, name: str) -> Path:
    """A file for the inside of a stage (optimiser state between epochs); gone once the stage is recorded."""
    return directory / "checkpoints" / f"{_slug(name)}.partial.pt"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
