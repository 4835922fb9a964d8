"""`prune`: one file a command, imported when it is called; torch is imported only inside commands."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from prunecore import __version__
from prunecore.cli.interrupt import interruptible
from prunecore.errors import ForwardError, PrunecoreError

COMMANDS = {
    "run": "Prune a network: cut, prove, repair, fine-tune, report.",
    "init": "Write a commented Pruning.yaml.",
    "plugins": "List what is installed, from which distribution, with its hooks.",
    "doctor": "Show what of a network can be cut, what cannot and why, and the reachable range.",
    "verify": "Prove that the cut of a run, or a trial cut of a network, is right.",
    "runs": "List the runs below a directory and their state.",
    "eval": "Evaluate a run's network, or any network, on a task.",
    "export": "Write a network to an ONNX, PT2, PTH, safetensors or interface file, and compare them.",
    "report": "Write report.html of finished runs again.",
    "compare": "Compare finished runs: a table, or one HTML page.",
    "bench": "Measure latency before and after, in turns, beside the MACs.",
}


class LazyGroup(click.Group):
    """Shows help from a table; imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"prunecore.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from prunecore.errors import nearest

            ctx.fail(f"no such command {args[0]!r}{nearest(args[0], COMMANDS)}; there are: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prune")
def cli() -> None:
    """Structured pruning of PyTorch networks, with a proof that the cut was right.

    `prune run --algo fpgm` with nothing else uses ./Pruning.yaml, or runs a small demo where there is none.
    Exit codes: 0 done; 1 the run failed (one line says why); 2 usage or configuration.
    """


def main() -> None:
    """Entry point: an expected error is one line and its exit code; an unexpected one keeps its traceback."""
    # torch's threads otherwise spin while they wait: with another process on the machine a run takes up to 20 times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # without standalone mode click returns the code of an Exit; commands themselves return None
        with interruptible():
            code = cli(standalone_mode=False) or 0
        sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except PrunecoreError as error:
        if isinstance(error, ForwardError) and (frames := error.traceback()):
            click.echo(f"Where the network's code stopped:\n{frames}", err=True, nl=False)
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
