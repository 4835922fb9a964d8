"""`prune runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("runs")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(directory: Path, as_json: bool) -> None:
    """List the runs in and below a directory: finished, running, or stopped (`prune run --resume` goes on with those)."""
    from prunecore.report.tables import plain_table
    from prunecore.run.directory import CONFIG, is_run

    found = [_described(path.parent) for path in sorted(directory.rglob(CONFIG)) if is_run(path.parent)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo(f"no runs in {directory}")
    else:
        header = ["run", "state", "algorithm", "model", "size", "metric", "time", "last stage"]
        keys = ["run", "state", "algorithm", "model", "size", "val_accuracy", "time", "stage"]
        click.echo(plain_table(header, [[_spell(run[key]) for key in keys] for run in found]))


def _described(path: Path) -> dict[str, Any]:
    from prunecore.config.reader import read_yaml
    from prunecore.config.schema import Spec
    from prunecore.errors import PrunecoreError
    from prunecore.run.directory import CONFIG, JOURNAL, finished, is_locked
    from prunecore.run.journal import Journal
    from prunecore.run.result import spell_time

    run: dict[str, Any] = dict.fromkeys(("algorithm", "model", "size", "val_accuracy", "time", "stage"))
    run |= {"run": str(path), "state": "running" if is_locked(path) else "stopped"}
    try:
        settings = read_yaml(path / CONFIG)
        run |= {"algorithm": settings.get("algorithm"), "model": str(Spec.model_validate(settings.get("model")))}
        records = Journal(path / JOURNAL, writes=False).records
        if records:
            run |= {"stage": records[-1].get("name"), "time": spell_time(max(float(r.get("at", 0)) for r in records))}
        result = finished(path)
        if result is not None:
            run |= {"state": "finished", **{key: result[key] for key in ("size", "val_accuracy", "time")}}
    except (PrunecoreError, OSError, ValueError, LookupError, TypeError) as error:
        run["state"] = f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return run


def _spell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
