"""Run directories made by hand, and what a reader of a page sees of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from prunecore.run import directory as files
from prunecore.run.journal import Journal

GROUPS = (("stem", 8, 6), ("body.conv1", 16, 9))
RESULT: dict[str, Any] = {
    "algorithm": "fpgm",
    "criterion": "fpgm",
    "target": {"measure": "macs", "reduce": 0.5, "multiple_of": None},
    "size": 0.4987,
    "size_total": 0.4987,
    "macs": {"before": 1234567, "after": 615678},
    "params": {"before": 98765, "after": 45678},
    "latency": None,
    "metric": {"name": "accuracy", "before": 0.95, "after_cut": 0.3, "after_repair": 0.8, "after": 0.94},
    "val_accuracy": 0.94,
    "time": "0h 0m 9s",
    "seconds": 9.25,
    "certificate": {"verified": True, "max_abs_error": 2.5e-16, "inputs": [[1, 1, 16, 16]], "dtype": "float64", "notes": []},
    "unprunable": [{"module": "head", "reason": "network output"}],
    "notes": ["a width that stays"],
    "widths": [{"group": g, "before": b, "after": a} for g, b, a in GROUPS],
    "ledger": {
        "candidates": 1, "rounds": 1, "trials": 0, "trials_ranked": 0, "trials_tuned": 0, "trials_failed": 0,
        "images_forward": 0, "images_backward": 0, "seconds": {"cut": 1.5, "fine_tune": 6.0, "rest": 1.75},
    },
    "control": {"criterion": "random", "size": 0.5, "after_cut": 0.2, "after_repair": 0.7, "after": 0.84},
    "seed": 7,
    "provenance": {"spec": "demo", "class": "nets.TinyNet"},
    "versions": {"python": "3.11.7", "prunecore": "0.1.0"},
}  # fmt: skip
CONFIG = "model: {kind: demo}\nalgorithm: fpgm\n"


def score(value: float, *, images: int = 100, loss: float = 0.5) -> dict[str, Any]:
    return {"name": "accuracy", "value": value, "loss": loss, "images": images}


def changed(**changes: Any) -> dict[str, Any]:
    """RESULT with some values replaced; mappings are merged."""
    made = copy.deepcopy(RESULT)
    for key, value in changes.items():
        made[key] = {**made[key], **value} if isinstance(value, Mapping) and isinstance(made[key], Mapping) else value
    return made


def make(
    path: Path,
    result: Mapping[str, Any] | None = RESULT,
    *,
    steps: Sequence[Mapping[str, Any]] = ({},),
    trials: Sequence[Mapping[str, Any]] = (),
    control: bool = True,
    config: str = CONFIG,
) -> Path:
    """A run with these steps and trials. result: None where it has not finished."""
    path.mkdir(parents=True)
    (path / files.CONFIG).write_text(config)
    journal = Journal(path / files.JOURNAL)
    journal.append({"event": "value", "name": "before", "at": 1.0, "seconds": 0.5, "data": score(0.95)})
    for trial in trials:
        data = {"attempts": 1, "cost": {"macs": 700000, "params": 50000}, "forward": 64, "backward": 0, **trial}
        number = data.pop("number")
        journal.append({"event": "value", "name": f"trial-{number}", "at": 1.5, "seconds": 0.1, "data": data})
    made = [(f"candidate-{step.get('number', n)}", step) for n, step in enumerate(steps, 1)]
    for prefix, step in [*made, *([("control", {"scores": (0.2, 0.7, 0.84, 0.8)})] if control else [])]:
        _append(journal, prefix, step)
    if result is not None:
        (path / files.RESULT).write_text(json.dumps(result))
    return path


def _append(journal: Journal, prefix: str, step: Mapping[str, Any]) -> None:
    widths = step.get("widths", GROUPS)
    data = {
        "size": step.get("size", 0.4987),
        "cost": {"macs": step.get("macs", 615678), "params": 45678},
        "base": step.get("base", 0),
        "reduce": step.get("reduce", 0.5),
        "why": step.get("why", ""),
    }
    recipe = {"widths": [{"group": g, "before": b, "after": a} for g, b, a in widths]}
    journal.append(
        {"event": "stage", "name": f"{prefix}/cut", "at": 2.0, "seconds": 0.25, "recipe": recipe, "data": data}
    )
    stages = ("after_cut", "after_repair", "after", "search")
    for stage, value in zip(stages, step.get("scores", (0.3, 0.8, 0.94, 0.92)), strict=True):
        if value is not None:
            journal.append(
                {"event": "value", "name": f"{prefix}/{stage}", "at": 3.0, "seconds": 0.1, "data": score(value)}
            )


class Reader(HTMLParser):
    """What stands in a page. values: of `<data>`. tables: rows of texts. ids. tags: open elements, each closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.ids: list[str] = []
        self.names: set[str] = set()
        self.addresses: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.add(tag)
        self.addresses += [v for k, v in attrs if k in ("href", "src", "xlink:href", "action") and v]
        assert not [k for k in given if k.startswith("on")]
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "br":
            self.handle_data(" ")
        if tag == "data":
            self.values.append(str(given["value"]))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            assert tag == "td" or given["scope"] in ("col", "row")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self._text.append(data)
        if {"td", "th"} & set(self._open) and "table" in self._open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def row(self, first: str) -> list[str]:
        """The cells of the one row that begins so."""
        (found,) = [row for table in self.tables for row in table if row and row[0].strip() == first]
        return [" ".join(cell.split()) for cell in found]
