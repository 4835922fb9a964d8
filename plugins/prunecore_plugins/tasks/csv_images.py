"""The task `csv:PATH`: images and their classes in a table with the header `path,label,is_val`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from prunecore import hookimpl
from prunecore.training import (
    ClassificationLoss,
    ClassificationMetric,
    ImageOptions,
    Objective,
    Row,
    classification_task,
    image_data,
    raise_faults,
    read_rows,
    split_rows,
    unreadable,
)

if TYPE_CHECKING:
    from prunecore import Task


class CSVImagesTask:
    """Items: float32 `(channels, height, width)`; the class."""

    class Options(ImageOptions):
        """source: the table; paths in it are relative to it. num_classes: default: the largest class + 1.

        loss: label smoothing is by 0.1. metric: all but `accuracy` are means over the classes.
        """

        source: Path
        num_classes: int | None = Field(default=None, ge=1)
        loss: ClassificationLoss = "cross_entropy"
        metric: ClassificationMetric = "accuracy"

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        options = self._options
        rows = read_rows(options.source, task="csv")
        raise_faults(
            options.source, rows, [faults_of(r, options.num_classes) for r in rows], whole=self._unjudged(rows)
        )
        form = options.format()
        train, validation = split_rows(rows)
        labels = [int(r.label) for r in train]
        return classification_task(
            f"csv:{options.source}",
            image_data([r.path for r in train], labels, form),
            image_data([r.path for r in validation], [int(r.label) for r in validation], form.without_flip()),
            num_classes=options.num_classes or max(int(r.label) for r in rows) + 1,
            labels=labels,
            objective=Objective(options.loss, options.metric),
        )

    def _unjudged(self, rows: list[Row]) -> list[str]:
        """Why the metric says nothing of the validation split."""
        classes = {r.label for r in split_rows(rows)[1]}
        if self._options.metric != "auroc" or len(classes) != 1:
            return []
        return [f"metric auroc tells classes apart, but all validation lines are of class {classes.pop()}; add others"]


def faults_of(row: Row, num_classes: int | None) -> list[str]:
    """What is wrong with a line, in words."""
    faults = []
    if not row.label.lstrip("-").isdecimal():
        faults.append(f"class {row.label!r} is not an integer")
    elif int(row.label) < 0 or (num_classes is not None and int(row.label) >= num_classes):
        highest = "" if num_classes is None else f" to {num_classes - 1} (num_classes {num_classes})"
        faults.append(f"class {row.label} is outside 0{highest}")
    fault = unreadable(row.path)
    return faults if fault is None else [*faults, fault]
