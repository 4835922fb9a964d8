"""`prune verify`."""

from __future__ import annotations

from pathlib import Path

import click

from prunecore.cli.sources import is_run, loaded_of, refuse_options, trust_flags


@click.command("verify")
@click.argument("source", metavar="RUN|MODEL")
@click.option("-P", "reduce", type=float, help="Reduction of the trial cut of a MODEL; default: 0.5.")
@click.option("--graph", default=None, help="Graph engine for the trial cut.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODEL.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Option of the loader.")
@click.option("--seed", type=int, default=0, show_default=True)
@trust_flags()
def command(
    source: str, reduce: float | None, graph: str | None, weights: Path | None, assignments: tuple[str, ...], seed: int
) -> None:
    """Prove that the cut of a run, or a trial cut of a network, computes what the masked network computes."""
    from dataclasses import asdict

    from prunecore import api
    from prunecore.config.schema import DEFAULT_GRAPH
    from prunecore.report.tables import certificate_line, widths_picture
    from prunecore.run.directory import RECIPE
    from prunecore.surgery import apply_recipe, certify, load_recipe

    if is_run(source):
        refuse_options({"-P": reduce, "--graph": graph, "--weights": weights, "--set": assignments or None})
        api.load(source)  # a finished run, whose weights on disk fit the network
        loaded = api.load_original(Path(source))
        original, recipe = api.original_of(loaded), load_recipe(Path(source) / RECIPE)
        certificate = certify(original, apply_recipe(original, recipe), recipe, loaded.inputs, seed=seed)
    else:
        loaded = loaded_of(source, weights, assignments)
        engine = graph or DEFAULT_GRAPH
        pruned = api.prune(
            loaded.model,
            loaded.inputs,
            algo="random",
            reduce=0.5 if reduce is None else reduce,
            seed=seed,
            graph=engine,
        )
        certificate, recipe = pruned.certificate, pruned.recipe
        click.echo(f"trial cut: size {pruned.size:.4f}, {len(pruned.unprunable)} modules left whole")
        for item in pruned.unprunable:
            click.echo(f"  {item.module}: {item.reason}")
    if recipe.widths:
        click.echo(widths_picture(recipe.widths))
    click.echo(certificate_line(asdict(certificate)))
    for note in certificate.notes:
        click.echo(f"  {note}")
    if not certificate.verified:
        raise click.exceptions.Exit(1)
