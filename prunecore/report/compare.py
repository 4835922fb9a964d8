"""Several runs side by side: a row each, and what makes them hard to compare."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunecore.planning.planner import TOLERANCE
from prunecore.report import plots, words
from prunecore.report.facts import RunFacts
from prunecore.report.html import environment
from prunecore.report.tables import plain_table, spell_count


@dataclass(frozen=True)
class RunRow:
    """A finished run. control: the random control's metric where the run's own `after` has a counterpart, else None.

    images: of the validation split. repaired, control_repaired: the metric before any fine-tuning.
    """

    run: str
    network: str
    algorithm: str
    measure: str
    reduce: float
    size: float
    macs_before: int
    macs: int
    params: int
    metric: str
    images: int | None
    before: float
    after: float
    control: float | None
    repaired: float
    control_repaired: float | None
    verified: bool
    seconds: float
    seed: int

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def advantage(self) -> float | None:
        """Over the random control, after fine-tuning."""
        return None if self.control is None else self.after - self.control


def rows_of(runs: Mapping[Path, RunFacts]) -> list[RunRow]:
    """In the order given; named by as much of their paths as tells them apart."""
    names = _names(list(runs))
    return [_row(name, facts) for name, facts in zip(names, runs.values(), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    full = [os.path.abspath(path) for path in paths]
    if len(full) == 1:
        return [os.path.basename(full[0])]
    shared = os.path.commonpath([os.path.dirname(path) for path in full])
    return [os.path.relpath(path, shared) for path in full]


def _row(name: str, facts: RunFacts) -> RunRow:
    result: Mapping[str, Any] = facts.result
    metric, control = result["metric"], result["control"] or {}
    return RunRow(
        run=name,
        network=words.network_name(facts),
        algorithm=words.algorithm_name(result),
        measure=str(result["target"]["measure"]),
        reduce=result["target"]["reduce"],
        size=result["size"],
        macs_before=result["macs"]["before"],
        macs=result["macs"]["after"],
        params=result["params"]["after"],
        metric=str(metric["name"]),
        images=facts.images,
        before=metric["before"],
        after=metric["after"],
        control=control.get("after"),
        repaired=metric["after_repair"],
        control_repaired=control.get("after_repair"),
        verified=bool(result["certificate"]["verified"] or not result["certificate"]["inputs"]),  # or nothing was cut
        seconds=result["seconds"],
        seed=result["seed"],
    )


def cautions(rows: Sequence[RunRow]) -> list[str]:
    """What makes a comparison of these runs weaker than the table looks."""
    found = [
        f"{what} differ: {', '.join(values)}"
        for what, values in (
            ("the networks", _distinct(r.network for r in rows)),
            ("the metrics", _distinct(r.metric for r in rows)),
            ("the measures that size counts", _distinct(r.measure for r in rows)),
            ("the validation splits (images)", _distinct(r.images for r in rows)),
            ("the metrics before pruning", _distinct(f"{r.before:.4f}" for r in rows)),
        )
        if len(values) > 1
    ]
    sizes = [r.size for r in rows]
    if max(sizes) - min(sizes) > TOLERANCE:
        found.append(
            f"the sizes lie between {min(sizes):.4f} and {max(sizes):.4f}: a higher metric may be the larger network's"
        )
    if len(rows) > 1 and len({(r.algorithm, r.seed) for r in rows}) == len({r.algorithm for r in rows}):
        found.append("one seed a run: what another seed would change cannot be told from what the algorithms do")
    unproved = [r.run for r in rows if not r.verified]
    if unproved:
        found.append(f"not verified: {', '.join(unproved)}")
    return found


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def shared_line(rows: Sequence[RunRow]) -> str:
    """What is the same in all of them, in one line."""
    images = rows[0].images
    split = "the validation split" if images is None else f"{words.plural(images, 'validation image')}"
    parts = [rows[0].network] if len({r.network for r in rows}) == 1 else []
    parts += [f"{rows[0].metric} on {split}"] if len({(r.metric, r.images) for r in rows}) == 1 else []
    parts += ["every cut verified"] if all(r.verified for r in rows) else []
    return "; ".join(parts)


def comparison_table(rows: Sequence[RunRow]) -> str:
    """Plain columns, with what is the same in all runs in a line above them."""
    header = [
        "run",
        "algorithm",
        "asked",
        "size",
        "MACs",
        "params",
        "before",
        "after",
        "change",
        "random",
        "gain",
        "time",
    ]
    networks, metrics = ({row.network for row in rows}, {row.metric for row in rows})
    more = [(len(networks) > 1, "network", "network"), (len(metrics) > 1, "metric", "metric")]
    cells = [_cells(row) + [getattr(row, name) for wanted, _, name in more if wanted] for row in rows]
    table = plain_table(header + [title for wanted, title, _ in more if wanted], cells)
    return "\n".join(line for line in (shared_line(rows), table) if line)


def _cells(row: RunRow) -> list[str]:
    spell = words.spell_score
    return [
        *(row.run, row.algorithm, f"-{words.percent(row.reduce)} {row.measure}", f"{row.size:.4f}"),
        *(spell_count(row.macs), spell_count(row.params), spell(row.before), spell(row.after)),
        *(words.spell_change(row.change), spell(row.control)),
        words.NONE if row.advantage is None else words.spell_change(row.advantage),
        words.spell_seconds(row.seconds),
    ]


def comparison_page(rows: Sequence[RunRow]) -> str:
    """One HTML page."""
    from markupsafe import Markup

    lines = [plots.Line(f"{row.run}, size {row.size:.4f}", row.after, row.before, row.control) for row in rows]
    alike = len({row.metric for row in rows}) == 1
    best = max(rows, key=lambda row: row.after) if alike and len(rows) > 1 else None
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            rows=rows,
            counted=words.plural(len(rows), "run"),
            shared=shared_line(rows),
            networks=len({row.network for row in rows}),
            metrics=len({row.metric for row in rows}),
            best=best,
            close=[row for row in rows if best is not None and row is not best and _level(row, best)],
            cautions=cautions(rows),
            plot=Markup(plots.runs_plot(rows[0].metric, lines)) if alike else "",
            version=_version(),
        )
    )


def _level(one: RunRow, other: RunRow) -> bool:
    """Whether sampling error alone may have made the difference, if there is one."""
    if one.after == other.after:
        return True
    error = words.sampling_error(one.metric, (one.after, other.after), one.images)
    return error is not None and one.images == other.images and abs(one.after - other.after) <= error


def _version() -> str:
    from prunecore import __version__

    return str(__version__)
