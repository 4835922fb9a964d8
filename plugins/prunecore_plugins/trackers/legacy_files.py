"""The files that existing users of the old tool look for: the log of widths, the summary, whole modules per iteration."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl
from prunecore.files import write_text, write_whole

if TYPE_CHECKING:
    from torch import nn

HEADER = ("N", "sloi", "do", "posle", "acc", "size")


class LegacyFiles:
    """`log`: a line for every layer that an iteration narrowed. `summary`: the three numbers of a run. In the run directory
    `orig_model.pth` and a whole module after each iteration, whose name holds its number, accuracy and size.
    """

    class Options(BaseModel):
        """log, summary: files; by default beside the run directory, `DIR_log.csv` and `DIR.txt`. start: the number from which
        iterations are counted on; earlier lines of the log stay.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        log: Path | None = None
        summary: Path | None = None
        start: int = Field(default=0, ge=0)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._iteration = options.start
        self._rows: list[list[str]] = []

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "loaded":
            self._rows = earlier_rows(self._log(event), self._options.start)
            original = Path(event["directory"]) / "orig_model.pth"
            if not original.exists():  # another one may be there, from before a restart
                save_whole(event["model"], original)
        elif event["event"] == "accepted":
            self._accepted(event)
        elif event["event"] == "done":
            result = event["result"]
            summary = {key: result[key] for key in ("size", "val_accuracy", "time")}
            write_text(self._options.summary or beside(event, ".txt"), f"{summary}\n")
            print(summary)

    def _accepted(self, event: Mapping[str, Any]) -> None:
        self._iteration += 1
        accuracy, size = f"{event['metric']:.4f}", f"{event['size']:.4f}"
        self._rows += [
            [str(self._iteration), w["group"], str(w["before"]), str(w["after"]), accuracy, size]
            for w in event["widths"]
        ]
        # written anew each time, so that a run that is resumed leaves the same log
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *self._rows])
        write_text(self._log(event), text.getvalue())
        name = f"it{self._iteration}_acc{accuracy}_size{size}.pth"
        save_whole(event["model"], Path(event["directory"]) / name)

    def _log(self, event: Mapping[str, Any]) -> Path:
        return self._options.log or beside(event, "_log.csv")


def beside(event: Mapping[str, Any], end: str) -> Path:
    """The file beside the run directory that is called as it is, with `end`."""
    directory = Path(event["directory"]).resolve()
    return directory.with_name(f"{directory.name}{end}")


def earlier_rows(log: Path, start: int) -> list[list[str]]:
    """The lines of iterations up to `start` that stand in the log."""
    if not start or not log.is_file():
        return []
    with log.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if row[:1] and row[0].isdecimal() and int(row[0]) <= start]


def save_whole(model: nn.Module, path: Path) -> None:
    """A module as `torch.save(model)` writes it; a line on the terminal instead, where pickle cannot."""
    try:
        write_whole(path, lambda file: torch.save(model, file))
    except (
        pickle.PicklingError,
        AttributeError,
        TypeError,
    ) as error:  # what pickle raises for lambdas and inner classes
        print(f"{path.name} is not written: the network cannot be saved as a whole module ({error})")
