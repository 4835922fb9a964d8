"""`prune compare`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command("compare")
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(runs: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """Compare finished runs: size, metric and random control side by side, and what makes them hard to compare.

    --html needs the extra `report`.
    """
    from prunecore.report.compare import cautions, comparison_page, comparison_table, rows_of
    from prunecore.report.facts import read_run
    from prunecore.report.figures import require

    if html is not None:
        require()
    rows = rows_of({run: read_run(run) for run in runs})
    notes = cautions(rows)
    if as_json:
        click.echo(json.dumps({"runs": [asdict(row) for row in rows], "cautions": notes}, indent=2))
    else:
        click.echo(comparison_table(rows))
        for note in notes:
            click.echo(f"caution: {note}")
    if html is not None:
        from prunecore.files import write_text

        write_text(html, comparison_page(rows))
        click.echo(str(html), err=as_json)
