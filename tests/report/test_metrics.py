"""`metrics.csv`: a line for every score."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from prunecore.report.facts import read_run
from prunecore.report.metrics import HEADER, metrics_csv
from tests.report.hand_runs import make, score

TRIALS = (
    {"number": 1, "base": 0, "size": 0.7, "score": score(0.9, images=64), "forward": 320, "backward": 96},
    {"number": 2, "base": 0, "size": 0.6, "fault": "crash", "message": "gone"},
)


def test_a_line_for_every_score_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    steps = [{"number": 3, "scores": (0.3, 0.8, None, 0.92)}]
    text = metrics_csv(read_run(make(tmp_path / "run", steps=steps, trials=TRIALS)))
    rows = list(csv.reader(io.StringIO(text)))
    assert tuple(rows[0]) == HEADER
    assert [row[:4] for row in rows[1:]] == [
        ["0", "", "start", "before"],
        ["1", "0", "trial", "search"],
        ["2", "0", "trial", "search"],
        ["3", "0", "step", "after_cut"],
        ["3", "0", "step", "after_repair"],
        ["3", "0", "step", "search"],
        *(["", "0", "control", stage] for stage in ("after_cut", "after_repair", "after", "search")),
    ]
    assert rows[1][4:] == ["1.0", "1234567", "98765", "accuracy", "0.95", "0.5", "100", "", ""]
    assert rows[2][4:] == ["0.7", "700000", "50000", "accuracy", "0.9", "0.5", "64", "320", "96"]
    assert rows[3][4:] == ["0.6", "700000", "50000", "", "", "", "", "64", "0"]
    assert rows[4][4:] == ["0.4987", "615678", "45678", "accuracy", "0.3", "0.5", "100", "", ""]
