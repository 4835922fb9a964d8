"""`metrics.csv`: a line for every score of a run, whoever was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from prunecore.report.facts import RunFacts, Step, Trial
from prunecore.types import Score

METRICS = "metrics.csv"
HEADER = (
    *("number", "base", "kind", "stage", "size", "macs", "params"),
    *("metric", "value", "loss", "images", "forward", "backward"),
)
Row = tuple[object, ...]


def metrics_csv(facts: RunFacts) -> str:
    """The table, in the order of the numbers.

    kind: `start` (the network as loaded), `step`, `trial`, `control`. stage: the validation split is scored `before`,
    `after_cut`, `after_repair` and `after` (`after` alone where only `retraining` follows a cut), the search split at `search`.
    images: that the score is from. forward, backward: images that a trial took in all. A trial that failed has a line without a
    score.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER)
    rows.writerows(_rows(facts))
    return text.getvalue()


def _rows(facts: RunFacts) -> Iterator[Row]:
    result = facts.result
    if facts.start is not None:
        cost = (result["macs"]["before"], result["params"]["before"])
        yield (0, "", "start", "before", 1.0, *cost, *_values(facts.start), "", "")
    every: list[Step | Trial] = [*facts.steps, *facts.trials]
    for made in sorted(every, key=lambda m: m.number):
        yield from [_trial(made)] if isinstance(made, Trial) else _step(made, "step")
    if facts.control is not None:
        yield from _step(facts.control, "control")


def _step(step: Step, kind: str) -> Iterator[Row]:
    named = ("" if kind == "control" else step.number, "" if step.base is None else step.base, kind)
    for stage, score in step.scores.items():
        yield (*named, stage, step.size, step.cost.macs, step.cost.params, *_values(score), "", "")


def _trial(trial: Trial) -> Row:
    base = "" if trial.base is None else trial.base
    cost = (trial.size, trial.cost.macs, trial.cost.params)
    return (trial.number, base, "trial", "search", *cost, *_values(trial.score), trial.forward, trial.backward)


def _values(score: Score | None) -> Row:
    return ("", "", "", "") if score is None else (score.name, score.value, score.loss, score.images)
