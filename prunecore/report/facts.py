"""What a run directory says about its run: the result, every step, every trial, read from the files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunecore.errors import RunDirectoryError
from prunecore.run import directory as files
from prunecore.run.journal import Journal
from prunecore.types import Cost, Score, Width

STAGES = ("before", "after_cut", "after_repair", "after")
# what a report cannot do without
FIELDS = (
    *("algorithm", "criterion", "target", "size", "macs", "params", "metric", "seconds", "time", "certificate"),
    *("unprunable", "notes", "widths", "ledger", "control", "seed", "provenance", "versions"),
)


@dataclass(frozen=True)
class Step:
    """A proposal that was carried out. widths: of the groups that are narrower than in the network as loaded.

    scores: on the validation split by stage (`after_cut`, `after_repair`, `after` where it was fine-tuned), and `search`.
    base, reduce: None in journals that do not say.
    """

    number: int
    base: int | None
    reduce: float | None
    why: str
    size: float
    cost: Cost
    widths: tuple[Width, ...]
    scores: Mapping[str, Score]

    @property
    def last(self) -> Score | None:
        """The validation score of the network that the step left."""
        return self.scores.get("after") or self.scores.get("after_repair")

    def cut_since(self, base: Step | None) -> list[Width]:
        """The groups that became narrower than in `base` (None: than in the network as loaded)."""
        old = {w.group: w.after for w in base.widths} if base is not None else {}
        found = [Width(w.group, old.get(w.group, w.before), w.after) for w in self.widths]
        return [w for w in found if w.after < w.before]


@dataclass(frozen=True)
class Trial:
    """A proposal that was only measured, on the search split. fault: why it failed; empty where it did not."""

    number: int
    base: int | None
    size: float
    cost: Cost
    score: Score | None
    forward: int
    backward: int
    fault: str

    @property
    def kind(self) -> str:
        return "failed" if self.score is None else "fine-tuned" if self.backward else "ranked"


@dataclass(frozen=True)
class RunFacts:
    """Everything that the report of a run is made of. config: the text of `config.yaml`."""

    result: Mapping[str, Any]
    config: str
    start: Score | None
    steps: tuple[Step, ...] = ()
    trials: tuple[Trial, ...] = ()
    control: Step | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int | None:
        """How many images of the validation split a score is from."""
        return self.start.images if self.start is not None else None

    def step(self, number: int | None) -> Step | None:
        return next((s for s in self.steps if s.number == number), None)


def read_run(directory: Path, result: Mapping[str, Any] | None = None) -> RunFacts:
    """The facts of a finished run. result: what `result.json` will hold, where it is not written yet.

    Raises RunDirectoryError, in one line, where there is no run, it has not finished, or a file of it is damaged.
    """
    if not (directory / files.CONFIG).is_file():
        raise RunDirectoryError(f"{directory}: no {files.CONFIG} there; give the directory of a run")
    try:
        config = (directory / files.CONFIG).read_text(encoding="utf-8")
        settings = _settings(directory / files.CONFIG)
        records = Journal(directory / files.JOURNAL, writes=False).records
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{directory}: cannot be read: {error}") from error
    found = _checked(directory, records) if result is None else json.loads(json.dumps(result))
    try:
        named = {str(record["name"]): record for record in records}
        steps = sorted(_steps(named, r"candidate-(\d+)/cut"), key=lambda s: s.number)
        control = next(iter(_steps(named, r"control()/cut")), None)
        trials = sorted(_trials(named, found), key=lambda t: t.number)
        start = _score(named, "before")
    except (LookupError, TypeError, ValueError) as error:
        raise RunDirectoryError(
            f"{directory / files.JOURNAL}: a record lacks what it should hold: {error!r}"
        ) from error
    return RunFacts(found, config, start, tuple(steps), tuple(trials), control, settings)


def _settings(path: Path) -> Mapping[str, Any]:
    from prunecore.config.reader import read_yaml

    return read_yaml(path)


def _checked(directory: Path, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """`result.json`, with all that a report needs."""
    path = directory / files.RESULT
    try:
        found = files.finished(directory)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}; `prune run --resume` does not mend it") from error
    if found is None:
        last = f", its last stage was {records[-1].get('name')}" if records else ""
        raise RunDirectoryError(
            f"{directory}: the run has not finished{last}; go on with it by `prune run --resume {directory}`"
        )
    missing = [name for name in FIELDS if not isinstance(found, dict) or name not in found]
    if missing:
        raise RunDirectoryError(f"{path}: has no {', '.join(missing[:4])}; expected the result of a run")
    return found


# ---------------------------------------------------------------- the journal

Records = Mapping[str, Mapping[str, Any]]


def _score(records: Records, name: str) -> Score | None:
    return Score(**records[name]["data"]) if name in records else None


def _steps(records: Records, pattern: str) -> list[Step]:
    found = []
    for name, record in records.items():
        if not (match := re.fullmatch(pattern, name)):
            continue
        data, prefix = record["data"], name.removesuffix("/cut")
        scores = {stage: _score(records, f"{prefix}/{stage}") for stage in (*STAGES[1:], "search")}
        found.append(
            Step(
                int(match[1] or 0),
                data.get("base"),
                data.get("reduce"),
                data.get("why", ""),
                float(data["size"]),
                Cost(**data["cost"]),
                tuple(Width(w["group"], w["before"], w["after"]) for w in record["recipe"]["widths"]),
                {stage: score for stage, score in scores.items() if score is not None},
            )
        )
    return found


def _trials(records: Records, result: Mapping[str, Any]) -> list[Trial]:
    measure = result["target"]["measure"]
    whole = result["params" if measure == "params" else "macs"]["before"]
    found = []
    for name, record in records.items():
        if match := re.fullmatch(r"trial-(\d+)", name):
            data = record["data"]
            cost = Cost(**data["cost"])
            score = Score(**data["score"]) if "score" in data else None
            fault = f"{data['fault']}: {data['message']}" if "fault" in data else ""
            size = data.get("size", cost.of(measure) / whole)
            took = int(data.get("forward", 0)), int(data.get("backward", 0))
            found.append(Trial(int(match[1]), data.get("base"), size, cost, score, *took, fault))
    return found
