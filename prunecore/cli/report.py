"""`prune report`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(runs: tuple[Path, ...]) -> None:
    """Write report.html of finished runs again, from what is in their directories. Needs the extra `report`."""
    from prunecore.report.facts import read_run
    from prunecore.report.figures import require
    from prunecore.report.html import write_report

    require()
    for run in runs:
        read_run(run)  # none is written where one of them is no finished run
    for run in runs:
        click.echo(write_report(run))
