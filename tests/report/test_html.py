"""`report.html`: what stands in it is what the run directory says, whoever named the modules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from prunecore.errors import ConfigError, RunDirectoryError
from prunecore.report.facts import read_run
from prunecore.report.html import page, visits_of, write_report
from tests.report.hand_runs import GROUPS, RESULT, Reader, changed, make, score

ROUNDS = (
    {"widths": [("stem", 8, 7)], "size": 0.8, "reduce": 0.2, "scores": (0.6, 0.9, 0.96, 0.93)},
    {"base": 1, "why": "body.conv1: loss 0.1 after a short fine-tune", "scores": (0.5, 0.85, 0.94, 0.92)},
)
TRIALS = (
    {"number": 3, "base": 1, "size": 0.7, "score": score(0.9, images=64)},
    {"number": 4, "base": 1, "size": 0.6, "score": score(0.91, images=64), "backward": 320},
    {"number": 5, "base": 1, "size": 0.55, "fault": "timeout", "message": "over 5 s"},
)


def read(path: Path) -> Reader:
    return Reader(page(read_run(path)))


def flat(value: Any) -> list[str]:
    """Every number in it, as JSON writes it."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in flat(v)]
    if isinstance(value, list):
        return [n for v in value for n in flat(v)]
    return [str(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_every_figure_of_the_result_stands_in_the_page(tmp_path: Path) -> None:
    seen = read(make(tmp_path / "run"))
    wanted = [RESULT[k] for k in ("size", "macs", "params", "metric", "control", "widths", "seconds", "seed")]
    assert set(flat(wanted)) <= set(seen.values)
    assert str(RESULT["certificate"]["max_abs_error"]) in seen.values
    assert {"1.5", "6.0", "1.75"} <= set(seen.values)
    assert seen.row("after fine-tuning") == ["after fine-tuning", "0.9400", "0.8400", "+0.1000"]
    assert seen.row("after cut") == ["after cut", "0.3000", "0.2000", "+0.1000"]
    assert seen.row("2") == ["2", "body.conv1", "16", "9", "56.2 %", ""]
    assert seen.row("fine-tuning") == ["fine-tuning", "6.0 s", "64.9 %", ""]
    assert seen.row("network output") == ["network output", "1", "head"]
    assert "a width that stays" in seen.text
    assert "TinyNet keeps 49.87 % of its MACs; accuracy went from 0.9500 to 0.9400." in seen.text
    assert "stem 8 → 6, body.conv1 16 → 9 planned to a reduction of 50 %: lowest saliency by fpgm first" in seen.text
    assert "model: {kind: demo}" in seen.text


def test_a_page_is_one_file_without_scripts_whose_ids_are_unique(tmp_path: Path) -> None:
    seen = read(make(tmp_path / "run", steps=ROUNDS, trials=TRIALS))
    assert not seen.names & {"script", "iframe", "object", "img"}
    assert [a for a in seen.addresses if not a.startswith(("#", "data:,"))] == []
    assert len(seen.ids) == len(set(seen.ids)) > 50
    assert {a[1:] for a in seen.addresses if a.startswith("#")} <= set(seen.ids)
    assert seen.names >= {"main", "header", "section", "h1", "h2", "svg", "title", "desc", "figcaption", "details"}


def test_rounds_say_what_was_cut_and_why_and_trials_what_the_search_visited(tmp_path: Path) -> None:
    result = changed(ledger={"candidates": 5, "trials": 3, "trials_ranked": 1, "trials_tuned": 1, "trials_failed": 1})
    seen = read(make(tmp_path / "run", result, steps=ROUNDS, trials=TRIALS))
    assert "stem 8 → 7 planned to a reduction of 20 %: lowest saliency by fpgm first (no. 1)" in seen.text
    assert "stem 7 → 6, body.conv1 16 → 9 body.conv1: loss 0.1 after a short fine-tune (no. 2)" in seen.text
    assert "trial 5: timeout: over 5 s" in seen.text
    assert [seen.row(name)[1] for name in ("considered", "carried out", "trials, ranked only")] == ["5", "2", "1"]
    assert [row[0] for table in seen.tables for row in table if "carried out" in row[1:]] == ["2", "1"]  # by size
    assert "cut and repair are those of the last round" in seen.text
    assert seen.row("after repair")[3] == ""  # it has been fine-tuned in the round before: no comparison


def test_where_the_metric_cannot_tell_candidates_apart_the_loss_is_shown(tmp_path: Path) -> None:
    alike = [
        {"number": n, "base": 0, "size": 0.9 - n / 10, "score": score(1.0, images=64, loss=n / 10)} for n in range(2, 8)
    ]
    name, visits = visits_of(read_run(make(tmp_path / "run", trials=alike)))
    assert name == "loss"
    assert [(v.number, v.value) for v in visits[1:]] == [(n, n / 10) for n in range(2, 8)]
    assert "The loss is shown because accuracy is the same for most of them." in read(tmp_path / "run").text


def test_the_widths_are_those_of_the_network_that_was_chosen_not_of_the_last_step(tmp_path: Path) -> None:
    narrower = {"base": 1, "widths": [("stem", 8, 2), ("body.conv1", 16, 3)]}
    text = page(read_run(make(tmp_path / "run", steps=({}, narrower))))
    assert "stem from 8 to 6, body.conv1 from 16 to 9." in text
    assert "stem from 8 to 2" not in text


def test_a_trial_that_diverged_does_not_keep_the_others_out_of_the_page(tmp_path: Path) -> None:
    losses = (0.3, float("nan"), 0.2, float("inf"), 0.1)
    alike = [{"number": n, "base": 0, "size": 0.9, "score": score(0.9, loss=loss)} for n, loss in enumerate(losses, 2)]
    made = make(tmp_path / "run", trials=alike)
    name, visits = visits_of(read_run(made))
    assert (name, [v.number for v in visits]) == ("loss", [1, 2, 4, 6])
    assert "The Pareto front: 2 of 4 candidates" in read(made).text


LATENCY = {
    "device": "cpu", "threads": 1, "batch": 4, "dtype": "float32", "planned_size": 0.498, "planned_ms": 20.9,
    "original_ms": 41.875, "measured_ms": {"median": 21.125, "low": 20.5, "high": 21.75},
    "ratio": {"median": 0.5041, "low": 0.4912, "high": 0.5199},
}  # fmt: skip


def test_a_latency_stands_in_the_page_with_its_interval_and_where_it_holds(tmp_path: Path) -> None:
    seen = read(make(tmp_path / "run", changed(target={"measure": "latency"}, size=0.5041, latency=LATENCY)))
    assert "41.9 → 21.1" in seen.text
    assert "0.504 [0.491, 0.520] of the original, 0.498 planned; cpu, 1 thread, batch 4, float32" in seen.text
    assert {"41.875", "21.125"} <= set(seen.values)
    assert "Latency is measured anew, so the plan may differ." in seen.text
    other = read(make(tmp_path / "other")).text
    assert "Latency" not in other
    assert "The numbers are the same, to the last bit" in other


HOSTILE = ("<script>alert(1)</script>", 'a" onload="x', "$\\frac{1}{2}$ & <b>", "层.conv]]>", "<!-- --> {{ 7*7 }}")


def test_names_of_modules_are_text_whatever_they_hold(tmp_path: Path) -> None:
    widths = [(name, 8, 4) for name in HOSTILE]
    result = changed(
        widths=[{"group": g, "before": b, "after": a} for g, b, a in widths],
        unprunable=[{"module": HOSTILE[0], "reason": HOSTILE[1]}],
        notes=[HOSTILE[2]],
        algorithm=HOSTILE[0],
        metric={"name": HOSTILE[4]},
    )
    rounds = [{"widths": widths, "why": HOSTILE[0], "number": n} for n in (1, 2)]
    made = make(
        tmp_path / "run", result, steps=rounds, trials=TRIALS, config=f"model: {{kind: demo}}\n# {HOSTILE[0]}\n"
    )
    seen = read(made)
    assert not seen.names & {"script", "b"}
    for name in HOSTILE:
        assert [row for table in seen.tables for row in table if name in row], name
    assert f"Pruned by {HOSTILE[0]} with fpgm" in seen.text


def test_the_same_directory_makes_the_same_bytes(tmp_path: Path) -> None:
    run = make(tmp_path / "run", steps=ROUNDS, trials=TRIALS)
    first = write_report(run).read_bytes()
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9}):
        assert write_report(run).read_bytes() == first
    unwritten = make(tmp_path / "other", None, steps=ROUNDS, trials=TRIALS)
    assert write_report(unwritten, RESULT).read_bytes() == first


def test_a_run_without_control_steps_or_seconds(tmp_path: Path) -> None:
    ledger = {k: v for k, v in RESULT["ledger"].items() if k not in ("seconds", "trials_ranked")}
    result = {**changed(control=None, widths=[], unprunable=[], notes=[]), "ledger": ledger}
    text = read(make(tmp_path / "run", result, steps=(), control=False)).text
    assert "No random control was made" in text
    assert "No channel was cut." in text
    assert "did not record the seconds of its phases; 9.2 s in all" in text
    assert "Nothing: every width could be cut." in text


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"matplotlib is missing: pip install 'prunecore\[report\]'"):
        write_report(make(tmp_path / "run"))
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("result.json", "{", "result.json: cannot be read: Expecting property name"),
        ("result.json", "[1]", "result.json: has no algorithm, criterion, target, size"),
        (
            "result.json",
            json.dumps({k: v for k, v in RESULT.items() if k != "ledger"}),
            "result.json: has no ledger; exp",
        ),
        ("journal.jsonl", "00000000 {}\n00000000 {}\n", "journal.jsonl:1: the record is damaged"),
        ("config.yaml", "a: [", "config.yaml:1:5: not valid YAML"),
    ],
)
def test_a_damaged_directory_is_one_line(tmp_path: Path, name: str, content: str, why: str) -> None:
    (make(tmp_path / "run") / name).write_text(content)
    with pytest.raises((RunDirectoryError, ConfigError)) as found:
        read_run(tmp_path / "run")
    assert why in str(found.value)
    assert "\n" not in str(found.value)


def test_no_run_and_a_run_that_has_not_finished_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"nothing: no config.yaml there; give the directory of a run"):
        read_run(tmp_path / "nothing")
    make(tmp_path / "run", None)
    with pytest.raises(
        RunDirectoryError, match=r"has not finished, its last stage was control/search; go on with it by"
    ):
        read_run(tmp_path / "run")


def test_steps_know_what_they_cut_since_their_base(tmp_path: Path) -> None:
    facts = read_run(make(tmp_path / "run", steps=ROUNDS))
    first, second = facts.steps
    assert [(w.group, w.before, w.after) for w in second.cut_since(first)] == [("stem", 7, 6), ("body.conv1", 16, 9)]
    assert [(w.group, w.before, w.after) for w in second.cut_since(None)] == list(GROUPS)
