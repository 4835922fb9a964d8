"""`prune eval`."""

from __future__ import annotations

from pathlib import Path

import click

from prunecore.cli.sources import choice_of, is_run, loaded_of, refuse_options, trust_flags

_TASK = "data."


@click.command("eval")
@click.argument("source", metavar="RUN|MODEL")
@click.option("--data", metavar="SPEC", help="Task; default: that of the run.")
@click.option("--device", default="auto", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODEL.")
@click.option(
    "--set", "assignments", multiple=True, metavar="K=V", help="Option of the loader of MODEL; data.K=V: of the task."
)
@trust_flags()
def command(source: str, data: str | None, device: str, weights: Path | None, assignments: tuple[str, ...]) -> None:
    """Evaluate the network of a run, or any network, on the validation split of a task."""
    from prunecore import api
    from prunecore.config.training import EvaluationSettings
    from prunecore.errors import ConfigError
    from prunecore.registry import Choice, build_manager
    from prunecore.training import evaluate

    of_task = tuple(a.removeprefix(_TASK) for a in assignments if a.startswith(_TASK))
    of_loader = tuple(a for a in assignments if not a.startswith(_TASK))
    own: Choice | None = None
    if is_run(source):
        refuse_options({"--weights": weights, "--set": of_loader or None})
        parsed = api.parsed_of(Path(source))
        own = next((c for c in parsed.choices if c.role == "task"), None)
        model, settings = api.load(source), parsed.config.evaluation
    else:
        model, settings = loaded_of(source, weights, of_loader).model, EvaluationSettings()
    spec = data or (own.name if own is not None else None)
    if spec is None:
        raise ConfigError("--data: which task? Give one, such as --data digits")
    choice = choice_of("task", spec, of_task)
    if own is not None and own.name == choice.name:  # of the same kind: read as the run did, but for what is given
        choice = Choice("task", own.name, {**own.section, **choice.section}, own.where)
    task = build_manager([choice]).hook.prune_task()
    score = evaluate(model, task.validation, task, settings, device=device)
    click.echo(f"{score.name} {score.value:.4f}, loss {score.loss:.4f}, {score.images} images")
