"""`prune run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunecore.cli.settings import DEFAULT_FILE, base_settings, with_option
from prunecore.cli.sources import trust_flags

if TYPE_CHECKING:
    from prunecore.config.reader import Parsed


@click.command("run")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="Configuration; default: ./Pruning.yaml.")
@click.option("--algo", metavar="A", help="Algorithm: see `prune plugins`.")
@click.option("--criterion", metavar="C", help="Criterion of a multi-stage algorithm or search.")
@click.option("--graph", metavar="G", help="Graph engine.")
@click.option(
    "--model",
    metavar="SPEC",
    help="torchvision:NAME, timm:NAME, python:FILE.py:CALLABLE, pth:FILE, interface:FILE, run:DIR, demo.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict (.pth or .safetensors) for --model.")
@click.option(
    "--data",
    metavar="SPEC",
    help="digits, fashion-mnist[:DIR], csv:PATH, segmentation:PATH, folder:PATH, python:FILE.py:CALLABLE.",
)
@click.option("-P", "reduce", type=float, metavar="P", help="Fraction of the measure to remove, in [0, 1).")
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the run; must not hold another.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Any setting, such as training.epochs=3.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with a run that was stopped.")
@click.option("--seed", type=int, help="Seed of the run.")
@trust_flags("model.")
def command(
    config: Path | None,
    reduce: float | None,
    out: Path | None,
    assignments: tuple[str, ...],
    resume: Path | None,
    weights: Path | None,
    **flags: Any,
) -> None:
    """Prune a network: cut, prove, repair, fine-tune, report.

    With nothing else, `prune run --algo fpgm` uses ./Pruning.yaml if there is one, else it runs a demo in ./prune-demo:
    a small residual network on the digits that ship in the package, trained on the spot.
    """
    from prunecore.config.reader import assign, parse, read_yaml
    from prunecore.errors import ConfigError

    if resume is not None:
        from prunecore.run.directory import CONFIG, check

        given = [
            name
            for name, value in {"-c": config, "-P": reduce, "--out": out, "--weights": weights, **flags}.items()
            if value is not None
        ]
        if given or assignments:
            what = ", ".join(
                [*(n if n.startswith("-") else f"--{n}" for n in given), *(["--set"] if assignments else [])]
            )
            raise ConfigError(f"--resume goes on with the run's own settings; drop {what}, or start a new run")
        check(resume, resume=True)
        settings, directory = read_yaml(resume / CONFIG), resume
    else:
        named = {"algorithm": flags.pop("algo"), **flags}
        base = base_settings(config, assignments, flags=named, reduce=reduce)
        settings = base.settings
        for note in base.notes:
            click.echo(note)
        if base.demo:
            click.echo(
                f"No {DEFAULT_FILE} here and no --model: running the embedded demo (`prune init` writes a configuration)."
            )
        if weights is not None:
            settings = with_option(settings, "model", "weights", str(weights))
        for assignment in base.rest:
            settings = assign(settings, assignment)
        directory = out or _default_directory(settings, demo=base.demo)
    parsed = parse(settings)

    from prunecore.run.processes import joined

    with joined(parsed.config.device) as world:
        place = world.agreed(directory)
        if world.first:
            _shown(parsed, place, resume=resume is not None)
        else:
            from prunecore.run.pipeline import run

            run(parsed, place, resume=resume is not None)


def _shown(parsed: Parsed, directory: Path, *, resume: bool) -> None:
    """The run, with what it says on the terminal."""
    from prunecore.cli.console import Console
    from prunecore.cli.interrupt import interruptible
    from prunecore.run.pipeline import run

    with Console(directory) as console:
        try:
            with interruptible():
                result = run(parsed, directory, listeners=(console,), resume=resume)
        except KeyboardInterrupt:
            console.stopped()
            raise click.exceptions.Exit(1) from None
        console.summary(result)


def _default_directory(settings: dict[str, Any], *, demo: bool) -> Path:
    from prunecore.run.directory import free_directory

    if settings.get("out"):
        return Path(str(settings["out"]))
    if demo:
        return free_directory(Path("prune-demo"))
    model = settings.get("model")
    spec = model if isinstance(model, str) else str((model or {}).get("spec") or (model or {}).get("source") or "model")
    place, _, name = spec.rpartition(":")
    name = Path(place.rpartition(":")[2]).stem if place.endswith(".py") else Path(name or "model").stem
    return free_directory(Path("prune-runs") / f"{name}-{str(settings.get('algorithm', 'l2norm')).lower()}")
