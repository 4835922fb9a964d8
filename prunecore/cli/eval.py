"""`prune eval`."""

from __future__ import annotations

from pathlib import Path

import click

from prunecore.cli.sources import choice_of, is_run, loaded_of, refuse_options, trust_flags


@click.command("eval")
@click.argument("source", metavar="RUN|MODEL")
@click.option("--data", metavar="SPEC", help="Task; default: that of the run.")
@click.option("--device", default="auto", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODEL.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Option of the loader.")
@trust_flags()
def command(source: str, data: str | None, device: str, weights: Path | None, assignments: tuple[str, ...]) -> None:
    """Evaluate the network of a run, or any network, on the validation split of a task."""
    from prunecore import api
    from prunecore.config.training import EvaluationSettings
    from prunecore.errors import ConfigError
    from prunecore.registry import build_manager
    from prunecore.training import evaluate

    choice = choice_of("task", data) if data is not None else None
    if is_run(source):
        refuse_options({"--weights": weights, "--set": assignments or None})
        parsed = api.parsed_of(Path(source))
        choice = choice or next((c for c in parsed.choices if c.role == "task"), None)
        model, settings = api.load(source), parsed.config.evaluation
    else:
        model, settings = loaded_of(source, weights, assignments).model, EvaluationSettings()
    if choice is None:
        raise ConfigError("--data: which task? Give one, such as --data digits")
    task = build_manager([choice]).hook.prune_task()
    score = evaluate(model, task.validation, task, settings, device=device)
    click.echo(f"{score.name} {score.value:.4f}, loss {score.loss:.4f}, {score.images} images")
