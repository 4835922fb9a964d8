"""Tables of images: a csv file with the header `path,label,is_val`, for tasks that are made of one."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunecore.errors import ConfigError, DataError, enumerated

COLUMNS = ("path", "label", "is_val")
_VALIDATION = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Row:
    """A line of the table. number: as an editor counts. validation: None where `is_val` says neither yes nor no."""

    number: int
    path: Path
    label: str
    validation: bool | None


def read_rows(table: Path, *, task: str) -> list[Row]:
    """The rows of the table as they are written; their paths are relative to it.

    task: name of the task, for messages. ConfigError: no such file; DataError: another header, no csv.
    """
    if not table.is_file():
        raise ConfigError(f"{task}: there is no file {table}; give the table: --data {task}:PATH")
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


def raise_faults(
    table: Path, rows: Sequence[Row], found: Sequence[Sequence[str]], *, whole: Sequence[str] = ()
) -> None:
    """DataError that lists the first ten faults with their lines; nothing where there are none.

    found: what the task finds wrong with each row. whole: what it finds wrong with the table. Lines that belong to
    neither split, and empty splits, are faults as well.
    """
    faults = [
        f"line {row.number}: {fault}" for row, own in zip(rows, found, strict=True) for fault in (*_unsplit(row), *own)
    ]
    for validation, part in ((False, "train"), (True, "validation")):
        if not rows:
            faults.append(f"no {part} line: the table is empty")
        elif not any(r.validation is validation for r in rows):
            faults.append(f"no {part} line: is_val is {'False' if validation else 'True'} everywhere")
    if faults or whole:
        raise DataError(enumerated(table, [*faults, *whole]))


def split_rows(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows that train, and those that validate."""
    return [r for r in rows if r.validation is False], [r for r in rows if r.validation is True]


def _row(number: int, directory: Path, line: dict[str, str | None]) -> Row:
    path, label, validation = ((line[c] or "").strip() for c in COLUMNS)
    return Row(number, directory / path, label, _VALIDATION.get(validation.lower()))


def _unsplit(row: Row) -> list[str]:
    return ["is_val is neither True, 1, False nor 0"] if row.validation is None else []
