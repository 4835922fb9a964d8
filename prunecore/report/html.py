"""`report.html`: one file that says what a run did, made of its directory alone, the same every time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecore.errors import listing
from prunecore.files import write_text
from prunecore.report import plots, words
from prunecore.report.diagnosis import three_digits
from prunecore.report.facts import RunFacts, Step, read_run
from prunecore.report.figures import require
from prunecore.report.tables import spell_count
from prunecore.types import Width

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT, LOSS = "report.html", "loss"

PHASE_NAMES = {
    "tables": "latency tables",
    "pretraining": "pretraining",
    "analysis": "calibration, saliency, plan",
    "cut": "cut and certificate",
    "repair": "compensation, recalibration",
    "fine_tune": "fine-tuning",
    "evaluation": "evaluation",
    "trials": "trials of the search",
    "control": "random control",
    "rest": "start-up and the rest",
}
_MOST = 3  # groups that a row names


def write_report(directory: Path, result: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html` into the directory of a run. result: what `result.json` will hold, where it is not there yet.

    Raises ConfigError where matplotlib or jinja2 is missing, RunDirectoryError where there is no finished, whole run.
    """
    require()
    path = directory / REPORT
    write_text(path, page(read_run(directory, result)))
    return path


def page(facts: RunFacts) -> str:
    """The whole page."""
    return environment().get_template("report.html.j2").render(context(facts))


def environment() -> Environment:
    """Templates of the package, with everything escaped that is not marked as markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("prunecore.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "count": spell_count,
        "score": words.spell_score,
        "change": words.spell_change,
        "percent": words.percent,
        "part": words.part,
        "error": words.error,
        "duration": words.spell_seconds,
        "digits": three_digits,
    }
    return made


def context(facts: RunFacts) -> dict[str, Any]:
    """What the template is filled from: values as they are in `result.json`, sentences, and plots as markup."""
    from markupsafe import Markup

    result, control = facts.result, facts.result["control"]
    rounds, score_name, visits = rounds_of(facts), *visits_of(facts)
    name = str(result["metric"]["name"])
    last_control = (
        None if control is None else control["after"] if control["after"] is not None else control["after_repair"]
    )
    figures = {
        "stages": plots.stages_plot(result["metric"], control) if len(rounds) < 2 else "",
        "widths": plots.widths_plot([Width(**w) for w in result["widths"]]),
        "rounds": plots.rounds_plot(
            name, rounds, float(result["metric"]["before"]), last_control, 1.0 - result["target"]["reduce"]
        ),
        "search": plots.search_plot(score_name, visits) if facts.trials else "",
    }
    return {
        "r": result,
        "images": facts.images,
        "network": words.network_name(facts),
        "algorithm": words.algorithm_name(result),
        "measure": words.measure_of(result),
        "headline": words.headline(facts),
        "target_line": words.target_line(result),
        "latency": result.get("latency"),
        "latency_line": words.latency_line(result["latency"]) if result.get("latency") else "",
        "control_lines": words.control_lines(facts),
        "plots": {key: Markup(svg) for key, svg in figures.items()},
        "rounds": [_round_row(facts, step) for step in facts.steps],
        "score_name": score_name,
        "visits": visits,
        "front": plots.pareto_front(visits, lowest=score_name == LOSS),
        "failed": [t for t in facts.trials if t.score is None],
        "phases": _phases(result["ledger"].get("seconds"), float(result["seconds"])),
        "stuck": _by_reason(result["unprunable"]),
        "config": facts.config,
    }


def rounds_of(facts: RunFacts) -> list[plots.Round]:
    """Every step, by its scores on the validation split."""

    def value(step: Step, stage: str) -> float | None:
        return step.scores[stage].value if stage in step.scores else None

    stages = ("after_cut", "after_repair", "after")
    return [plots.Round(s.number, s.size, *(value(s, stage) for stage in stages)) for s in facts.steps]


def visits_of(facts: RunFacts) -> tuple[str, list[plots.Visit]]:
    """What is shown of the search split, the metric or the loss, and everything that has it as a number.

    The loss where the metric is the same for most: on a few dozen images it cannot tell candidates apart. A trial that
    diverged has none that could be drawn.
    """
    scored = [(t.number, t.kind, t.size, t.score) for t in facts.trials if t.score is not None]
    scored += [(s.number, "carried out", s.size, s.scores["search"]) for s in facts.steps if "search" in s.scores]
    name = str(facts.result["metric"]["name"])
    if 2 * len({score.value for *_, score in scored}) < len(scored):
        name = LOSS
    found = [plots.Visit(n, kind, size, s.loss if name == LOSS else s.value) for n, kind, size, s in scored]
    return name, sorted((v for v in found if math.isfinite(v.value)), key=lambda v: v.number)


def _round_row(facts: RunFacts, step: Step) -> dict[str, Any]:
    cut = step.cut_since(facts.step(step.base))
    return {
        "step": step,
        "cut": [f"{w.group} {w.before} → {w.after}" for w in cut[:_MOST]],
        "more": max(0, len(cut) - _MOST),
        "why": words.why_of(step.why, str(facts.result["criterion"]), step.reduce, bool(cut)),
        "left": step.last,
    }


def _phases(spent: Mapping[str, float] | None, total: float) -> list[tuple[str, float, float]]:
    """Phases that took time: name, seconds, part of the whole. Empty where the run did not record them."""
    found = spent or {}
    rows = [
        (PHASE_NAMES.get(name, name), float(s), float(s) / total if total else 0.0) for name, s in found.items() if s
    ]
    return sorted(rows, key=lambda row: -row[1])


def _by_reason(unprunable: list[Mapping[str, str]]) -> list[tuple[str, list[str], str]]:
    """A reason, the modules that it holds, and the first of them in words."""
    found: dict[str, list[str]] = {}
    for item in unprunable:
        found.setdefault(item["reason"], []).append(item["module"])
    return [(reason, modules, listing(modules, most=8)) for reason, modules in found.items()]
