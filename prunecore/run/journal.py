"""The append-only record of a run: one JSON object a line, fsynced, each with the checksum of what stands before it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunecore.errors import RunDirectoryError
from prunecore.files import sync_directory


class Journal:
    """`records` are those that were whole when the journal was opened; a torn last line is cut off.

    writes: whether this process keeps the file; others only remember.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._path = path
        self._writes = writes
        self.records, valid = _read(path)
        if writes and path.exists() and path.stat().st_size != valid:
            os.truncate(path, valid)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record and wait until it is on the disk."""
        body = json.dumps(record, sort_keys=True)
        line = f"{zlib.crc32(body.encode()):08x} {body}\n"
        try:
            if self._writes:
                with self._path.open("a", encoding="utf-8") as file:
                    new = file.tell() == 0
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    sync_directory(self._path.parent)
        except OSError as error:
            raise RunDirectoryError(
                f"{self._path}: cannot be written: {error.strerror}; free some space, then --resume"
            ) from error
        self.records = (*self.records, dict(record))

    def replace(self, record: Mapping[str, Any]) -> None:
        """Remember `record` in place of the last one, in a process that does not write."""
        if not self._writes:
            self.records = (*self.records[:-1], dict(record))

    def find(self, event: str, name: str) -> dict[str, Any] | None:
        """The last record of that event and name."""
        return next((r for r in reversed(self.records) if r.get("event") == event and r.get("name") == name), None)


def _read(path: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    """The whole records, and how many bytes they take. A damaged line that is not the last one is an error."""
    if not path.exists():
        return (), 0
    records, valid = [], 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        checksum, _, body = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != f"{zlib.crc32(body):08x}".encode():
            if number == len(lines) - 1:
                break
            raise RunDirectoryError(f"{path}:{number + 1}: the record is damaged; the run cannot be resumed from here")
        records.append(json.loads(body))
        valid += len(line)
    return tuple(records), valid
