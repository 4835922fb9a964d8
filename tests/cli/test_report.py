"""`prune report` and `prune compare`, and what a run says of its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prunecore import hookimpl
from prunecore.config.reader import parse
from prunecore.report import html
from prunecore.report.compare import comparison_page, rows_of
from prunecore.report.facts import read_run
from prunecore.report.words import MINUS, NONE
from prunecore.run.phases import seconds_by_phase
from prunecore.run.pipeline import run
from tests.cli.test_commands import prune
from tests.report.hand_runs import Reader, changed, make
from tests.run.kills import SMALL

QUICK: dict[str, Any] = {
    **SMALL,
    "algorithm": "linear",
    "linear": {"n": 2},
    "training": {"epochs": 1, "max_batches": 2, "batch_size": 32},
    "control": "cut",
}


class Ear:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "warning":
            self.warnings.append(event["text"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("reported")
    run(parse(QUICK), where / "run")
    return where


def test_a_run_leaves_the_report_that_prune_report_makes_again(finished: Path) -> None:
    path = finished / "run" / "report.html"
    first = path.read_bytes()
    path.unlink()
    done = prune("report", "run", cwd=finished)
    assert (done.returncode, done.stdout) == (0, "run/report.html\n")
    assert path.read_bytes() == first
    seen, result = Reader(first.decode()), json.loads((finished / "run" / "result.json").read_text())
    assert {str(result[k]["after"]) for k in ("macs", "params", "metric")} <= set(seen.values)
    assert "planned to a reduction of 15 %" in seen.text
    assert "planned to a reduction of 30 %" in seen.text


def test_the_seconds_of_the_phases_are_those_of_the_run(finished: Path) -> None:
    result = json.loads((finished / "run" / "result.json").read_text())
    spent = result["ledger"]["seconds"]
    assert sum(spent.values()) == pytest.approx(result["seconds"], abs=0.02)
    assert min(spent[p] for p in ("pretraining", "cut", "repair", "fine_tune", "evaluation", "control", "rest")) > 0
    assert spent["trials"] == 0


def test_phases_go_by_the_names_of_the_records() -> None:
    names = (
        "pretraining",
        "plan-0-0.5",
        "blocks-1-0.1",
        "candidate-1/cut",
        "candidate-1/after",
        "trial-3",
        "control/cut",
        "latency-tables",
        "x",
    )
    records = [{"name": name, "seconds": 2.0**n} for n, name in enumerate(names)] + [{"name": "before"}]
    assert seconds_by_phase(records, 300.0) == {
        "tables": 128.0, "pretraining": 1.0, "control": 64.0, "trials": 32.0, "analysis": 6.0, "cut": 8.0, "repair": 0.0, "fine_tune": 0.0,
        "evaluation": 16.0, "rest": 45.0,
    }  # fmt: skip


def test_without_the_extra_a_run_ends_well_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    ear = Ear()
    run(
        parse({**QUICK, "algorithm": "l2norm", "criterion": None, "pretraining": None}),
        tmp_path / "run",
        listeners=(ear,),
    )
    text = f"report.html was left out: jinja2 is missing: pip install 'prunecore[report]', then `prune report {tmp_path}/run`"
    assert [w for w in ear.warnings if "report" in w] == [text]
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"result.json", "metrics.csv"}
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_fails_takes_no_run_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "page", lambda facts: 1 / 0)
    ear = Ear()
    run(
        parse({**QUICK, "algorithm": "l2norm", "criterion": None, "pretraining": None}),
        tmp_path / "run",
        listeners=(ear,),
    )
    text = "report.html was left out: ZeroDivisionError: division by zero; everything else is written"
    assert text in ear.warnings
    assert (tmp_path / "run" / "result.json").is_file()


def test_one_that_is_no_finished_run_stops_all_of_them_in_one_line(tmp_path: Path) -> None:
    make(tmp_path / "good")
    make(tmp_path / "stopped", None)
    done = prune("report", "good", "stopped", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: stopped: the run has not finished, its last stage was control/search; "
        "go on with it by `prune run --resume stopped`\n"
    )
    assert not (tmp_path / "good" / "report.html").exists()


def test_without_the_extra_prune_report_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    make(tmp_path / "run")
    done = prune("report", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "Error: matplotlib is missing: pip install 'prunecore[report]'\n")


def test_compare_is_a_table_of_what_differs(tmp_path: Path) -> None:
    make(tmp_path / "deep" / "a")
    make(tmp_path / "b", changed(algorithm="agp", size=0.52, metric={"after": 0.96}, control={"after": None}))
    done = prune("compare", "deep/a", "b", "--html", "both.html", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "TinyNet; accuracy on 100 validation images; every cut verified"
    cells = [[cell for cell in line.split("  ") if cell] for line in lines[2:4]]
    assert [[c.strip() for c in row] for row in cells] == [
        ["deep/a", "fpgm", "-50 % macs", "0.4987", "616 k", "45.7 k", "0.9500", "0.9400", f"{MINUS}0.0100", "0.8400", "+0.1000", "9.2 s"],
        ["b", "agp with fpgm", "-50 % macs", "0.5200", "616 k", "45.7 k", "0.9500", "0.9600", "+0.0100", NONE, NONE, "9.2 s"],
    ]  # fmt: skip
    assert lines[4:] == [
        "caution: the sizes lie between 0.4987 and 0.5200: a higher metric may be the larger network's",
        "caution: one seed a run: what another seed would change cannot be told from what the algorithms do",
        "both.html",
    ]
    seen = Reader((tmp_path / "both.html").read_text())
    assert "b (agp with fpgm) ends highest: accuracy 0.9600 at size 0.5200." in seen.text
    assert "Sampling error alone may make the difference to deep/a." in seen.text
    assert seen.row("deep/a")[2:6] == [f"{MINUS}50 % macs", "0.4987", "0.9500", "0.9400"]
    assert len(seen.ids) == len(set(seen.ids))


def test_compare_tells_what_cannot_be_compared(tmp_path: Path) -> None:
    make(tmp_path / "a")
    other = changed(metric={"name": "miou", "before": 0.5}, seed=8, certificate={"verified": False})
    make(tmp_path / "b", other, config="model: {kind: timm, source: x}\n")
    found = json.loads(prune("compare", "a", "b", "--json", cwd=tmp_path).stdout)
    assert found["cautions"] == [
        "the networks differ: TinyNet, timm:x",
        "the metrics differ: accuracy, miou",
        "the metrics before pruning differ: 0.9500, 0.5000",
        "not verified: b",
    ]
    rows = rows_of({tmp_path / name: read_run(tmp_path / name) for name in ("a", "b")})
    assert "2 runs compared · prunecore" in Reader(comparison_page(rows)).text
    assert "None ends highest: their metrics differ." in Reader(comparison_page(rows)).text
    alone = Reader(comparison_page(rows[:1])).text
    assert "1 run compared" in alone
    assert "a (fpgm): accuracy 0.9400 at size 0.4987." in alone
    assert "ends highest" not in alone
    assert [(r["run"], r["metric"], r["control"]) for r in found["runs"]] == [
        ("a", "accuracy", 0.84),
        ("b", "miou", 0.84),
    ]
