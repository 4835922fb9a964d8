"""`prune plugins`."""

from __future__ import annotations

import json

import click


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List what is installed, from which distribution, with its hooks."""
    from prunecore.errors import PluginError
    from prunecore.registry import hooks_of, installed

    rows = []
    for role, plugins in installed().items():
        for plugin in plugins:
            try:
                hooks, fault = list(hooks_of(plugin.load())), None
            except PluginError as error:
                hooks, fault = [], str(error)
            about = {"role": role, "name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
            rows.append({**about, "hooks": hooks, "fault": fault})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from prunecore.report.tables import plain_table

    click.echo(
        plain_table(
            ["role", "name", "from", "hooks"],
            [
                [r["role"], r["name"], f"{r['distribution']} {r['version']}", r["fault"] or ", ".join(r["hooks"] or [])]
                for r in rows
            ],
        )
    )
