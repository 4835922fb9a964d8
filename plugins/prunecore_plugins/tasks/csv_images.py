"""The task `csv:PATH`: images and their classes in a table with the header `path,label,is_val`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from prunecore import ConfigError, DataError, hookimpl
from prunecore.errors import enumerated
from prunecore.training import ImageOptions, classification_task, image_data, unreadable

if TYPE_CHECKING:
    from prunecore import Task

COLUMNS = ("path", "label", "is_val")
_VALIDATION = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Row:
    """A line of the table. number: as an editor counts."""

    number: int
    path: Path
    label: str
    validation: bool | None


class CSVImagesTask:
    """Items: float32 `(channels, height, width)`; the class."""

    class Options(ImageOptions):
        """source: the table; paths in it are relative to it. num_classes: default: the largest class + 1."""

        source: Path
        num_classes: int | None = Field(default=None, ge=1)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        options = self._options
        rows = read_rows(options.source)
        raise_faults(options.source, rows, options.num_classes)
        form = options.format()
        train, validation = ([r for r in rows if r.validation is part] for part in (False, True))
        labels = [int(r.label) for r in train]
        return classification_task(
            f"csv:{options.source}",
            image_data([r.path for r in train], labels, form),
            image_data([r.path for r in validation], [int(r.label) for r in validation], form.without_flip()),
            num_classes=options.num_classes or max(int(r.label) for r in rows) + 1,
            labels=labels,
        )


def read_rows(table: Path) -> list[Row]:
    """The rows of the table as they are written. ConfigError: no such file; DataError: another header."""
    if not table.is_file():
        raise ConfigError(f"csv: there is no file {table}; give the table: --data csv:PATH")
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{table}: the first line is {','.join(reader.fieldnames or ()) or 'empty'!r}, expected {','.join(COLUMNS)}"
                )
            return [_row(reader.line_num, table.parent, line) for line in reader]
        except (UnicodeDecodeError, csv.Error) as fault:
            raise DataError(f"{table}: not a csv file in UTF-8: {fault}") from fault


def raise_faults(table: Path, rows: list[Row], num_classes: int | None) -> None:
    """DataError that lists the first ten lines at fault; nothing where there are none."""
    faults = [f"line {r.number}: {fault}" for r in rows for fault in _faults(r, num_classes)]
    for validation, part in ((False, "train"), (True, "validation")):
        if not rows:
            faults.append(f"no {part} line: the table is empty")
        elif not any(r.validation is validation for r in rows):
            faults.append(f"no {part} line: is_val is {'False' if validation else 'True'} everywhere")
    if faults:
        raise DataError(enumerated(table, faults))


def _row(number: int, directory: Path, line: dict[str, str | None]) -> Row:
    path, label, validation = ((line[c] or "").strip() for c in COLUMNS)
    return Row(number, directory / path, label, _VALIDATION.get(validation.lower()))


def _faults(row: Row, num_classes: int | None) -> list[str]:
    faults = []
    if row.validation is None:
        faults.append("is_val is neither True, 1, False nor 0")
    if not row.label.lstrip("-").isdecimal():
        faults.append(f"class {row.label!r} is not an integer")
    elif int(row.label) < 0 or (num_classes is not None and int(row.label) >= num_classes):
        highest = "" if num_classes is None else f" to {num_classes - 1} (num_classes {num_classes})"
        faults.append(f"class {row.label} is outside 0{highest}")
    fault = unreadable(row.path)
    return faults if fault is None else [*faults, fault]
