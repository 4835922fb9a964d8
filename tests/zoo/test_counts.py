"""How many networks are certified may grow, never shrink: `counts.json` is the floor, docs/zoo.md what the last sweep found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FLOORS: dict[str, dict[str, int]] = json.loads((HERE / "counts.json").read_text())
PAGE = (HERE.parents[1] / "docs" / "zoo.md").read_text()


def rows_of(library: str) -> list[list[str]]:
    """Cells of the rows of one table: network, verdict, size, CPU seconds, Torch-Pruning, reason."""
    part = PAGE.split(f"<!-- {library}: begin -->")[1].split(f"<!-- {library}: end -->")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("library", ["torchvision", "timm", "ofa"])
def test_as_many_networks_are_certified_as_ever(library: str) -> None:
    rows = rows_of(library)
    certified = [row for row in rows if row[1].startswith("certified") and float(row[2]) < 0.8]
    assert len(rows) == FLOORS[library]["networks"]
    assert len(certified) >= FLOORS[library]["certified"]
    assert not [row[0] for row in rows if row[1] == "CRASHED"]
