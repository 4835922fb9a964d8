"""`prune doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunecore.cli.sources import loaded_of, trust_flags

if TYPE_CHECKING:
    from prunecore.types import DependencyGraph


@click.command("doctor")
@click.argument("model", metavar="MODEL")
@click.option("--graph", default=None, help="Graph engine.")
@click.option("--multiple-of", type=int, help="As target.multiple_of.")
@click.option("--skip", multiple=True, metavar="GLOB", help="As target.skip.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODEL.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Option of the loader.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@trust_flags()
def command(
    model: str,
    graph: str | None,
    multiple_of: int | None,
    skip: tuple[str, ...],
    weights: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the channel groups of a network, what cannot be cut and why, and the range that is in reach. Needs no data."""
    from prunecore import api
    from prunecore.config.schema import DEFAULT_GRAPH
    from prunecore.measure import CostModel
    from prunecore.planning import reachable
    from prunecore.types import Target

    loaded = loaded_of(model, weights, assignments)
    found = api.trace(loaded.model, loaded.inputs, graph=graph or DEFAULT_GRAPH)
    whole = CostModel(found).cost({})
    reaches = {
        measure: reachable(found, Target(0.0, measure, multiple_of=multiple_of, skip=skip))
        for measure in ("macs", "params")
    }
    report = {
        "groups": _groups(found),
        "unprunable": [{"module": u.module, "reason": u.reason} for u in found.unprunable],
        "reach": {
            name: {"at_most": 1 - reach.smallest, "whole": getattr(whole, name), "limits": list(reach.notes)}
            for name, reach in reaches.items()
        },
    }
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))


def _groups(graph: DependencyGraph) -> list[dict[str, Any]]:
    return [
        {"group": g.name, "channels": g.channels, "modules": list(g.modules), "frozen": g.frozen}
        for g in graph.groups
        if any(m.role == "producer" for m in g.members)
    ]


def _text(report: dict[str, Any]) -> str:
    from prunecore.report.tables import bar, plain_table, spell_count

    groups = report["groups"]
    widest = max((g["channels"] for g in groups), default=1)
    rows = [
        [g["group"], g["channels"], bar(g["channels"], widest), g["frozen"] or f"{len(g['modules'])} modules"]
        for g in groups
    ]
    lines = [plain_table(["group", "width", "", "tied, or why it stays"], rows), ""]
    for name, reach in report["reach"].items():
        lines.append(f"{name}: {spell_count(reach['whole'])}, up to {reach['at_most']:.1%} can go")
        lines += [f"  {limit}" for limit in reach["limits"]]
    lines.append(
        "latency: measured on the device of a run, which says what is in reach; beforehand: prune bench MODEL -P 0.5"
    )
    stuck = report["unprunable"]
    lines += ["", f"cannot be cut: {len(stuck)}"] if stuck else []
    lines += [f"  {item['module']}: {item['reason']}" for item in stuck]
    return "\n".join(lines)
