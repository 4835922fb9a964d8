"""The command-line reference, made of the commands themselves: `python -m prunecore.cli.reference > docs/reference/cli.md`."""

from __future__ import annotations

import click

from prunecore.cli.main import cli


def page() -> str:
    """Markdown: the help of `prune` and of every command, at a width of 100."""
    parts = ["# Command line", "", "Made by `python -m prunecore.cli.reference`; a test keeps it so.", ""]
    context = click.Context(cli, info_name="prune", help_option_names=["-h", "--help"], terminal_width=100)
    parts += ["```text", cli.get_help(context), "```", ""]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None:
            inner = click.Context(command, info_name=name, parent=context, terminal_width=100)
            parts += [f"## prune {name}", "", "```text", command.get_help(inner), "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(page(), nl=False)
