"""`prune bench`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunecore.cli.sources import is_run, loaded_of, refuse_options, trust_flags

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prunecore.api import Pruned
    from prunecore.measure.latency import Latency
    from prunecore.report.diagnosis import Row
    from prunecore.types import ExampleInputs, Target, Width


@dataclass(frozen=True, eq=False)
class Compared:
    """Networks by name, the first of which is what the others are compared with.

    widths: of the pruned network's groups. aligned: the same cut with widths of a multiple. Both None for any two networks.
    """

    networks: Mapping[str, nn.Module]
    inputs: ExampleInputs
    widths: Sequence[Width] | None = None
    aligned: Callable[[int], nn.Module] | None = None


@dataclass(frozen=True)
class Conditions:
    """How latency is measured. threads: as torch has them where None. seconds: limit for one backend and batch size."""

    device: torch.device
    threads: int | None
    seconds: float


@click.command("bench")
@click.argument("source", metavar="RUN|MODEL")
@click.argument("other", metavar="[MODEL2]", required=False)
@click.option("-P", "reduce", type=float, help="Reduction of the trial cut of a MODEL alone; default: 0.5.")
@click.option("--batch", default="1", show_default=True, metavar="N,…", help="Batch sizes.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the CPU; default: as many as torch takes.")
@click.option("--backends", default="eager", show_default=True, metavar="B,…", help="Of eager, compile, onnx.")
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Limit for one backend and batch size.",
)
@click.option("--align", type=click.IntRange(min=2), metavar="K", help="Measure the cut with widths of a multiple too.")
@click.option("--graph", default=None, help="Graph engine for the cut of a MODEL.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODEL.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="K=V",
    help="Option of the loader of MODEL, and of MODEL2 where that is the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@trust_flags()
def command(
    source: str,
    batch: str,
    threads: int | None,
    backends: str,
    device: str,
    seconds: float,
    align: int | None,
    as_json: bool,
    **what: Any,
) -> None:
    """Measure the latency of a run's network beside the original, in turns, and say why where it did not fall with the MACs.

    A MODEL alone is compared with a trial cut of it; with MODEL2, the second with the first.
    """
    from prunecore.errors import ConfigError, PrunecoreError
    from prunecore.measure.backends import check_backend
    from prunecore.measure.batch import at_batch
    from prunecore.run.loading import check_forward
    from prunecore.training import resolve_device

    names = dict.fromkeys(check_backend(name.strip()) for name in backends.split(","))
    sizes = _sizes(batch)
    conditions = Conditions(resolve_device(device), threads, seconds)
    compared = _compared(source, **what)
    if align is not None and compared.aligned is None:
        raise ConfigError("--align: for a RUN or a MODEL alone; two networks have no cut that could be aligned")
    for model in compared.networks.values():
        for size in sizes:
            check_forward(model, at_batch(compared.inputs, size))
    report = _report(compared, [(name, size) for name in names for size in sizes], conditions, align)
    if not report["rows"]:
        reasons = "; ".join(f"{item['backend']}: {item['reason']}" for item in report["skipped"])
        raise PrunecoreError(f"nothing was measured: {reasons}")
    click.echo(json.dumps(report, indent=2, default=asdict) if as_json else _text(report))


def _sizes(text: str) -> list[int]:
    from prunecore.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--batch {text!r}: expected batch sizes from 1, such as 1,8")
    return list(dict.fromkeys(map(int, parts)))


# ---------------------------------------------------------------- what is compared


def _compared(
    source: str,
    *,
    other: str | None,
    reduce: float | None,
    graph: str | None,
    weights: Path | None,
    assignments: tuple[str, ...],
) -> Compared:
    from prunecore.errors import ConfigError

    cut = {"-P": reduce, "--graph": graph}
    if is_run(source):
        refuse_options({"MODEL2": other, **cut, "--weights": weights, "--set": assignments or None})
        return _run_of(Path(source))
    loaded = loaded_of(source, weights, assignments)
    if other is None:
        return _trial_of(loaded.model, loaded.inputs, 0.5 if reduce is None else reduce, graph)
    given = [name for name, value in cut.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: for a MODEL alone; with MODEL2 nothing is cut")
    alike = other.partition(":")[0] == source.partition(":")[0]
    second = loaded_of(other, None, assignments if alike else ())
    names = (source, other) if source != other else (source, f"{other} (2)")
    return Compared(dict(zip(names, (loaded.model, second.model), strict=True)), loaded.inputs)


def _run_of(directory: Path) -> Compared:
    from prunecore import api
    from prunecore.run.directory import RECIPE
    from prunecore.surgery import load_recipe

    pruned, config, loaded = api.load(directory), api.parsed_of(directory).config, api.load_original(directory)
    latency = {**config.latency.model_dump(), "device": config.latency.device or config.device}

    def aligned(multiple: int) -> nn.Module:
        return _cut(loaded.model, loaded.inputs, config.target.target(), multiple, config.graph, latency).model

    return Compared(
        {"original": api.original_of(loaded), "pruned": pruned},
        loaded.inputs,
        load_recipe(directory / RECIPE).widths,
        aligned,
    )


def _trial_of(model: nn.Module, inputs: ExampleInputs, reduce: float, graph: str | None) -> Compared:
    from prunecore.config.reader import target_of
    from prunecore.config.schema import DEFAULT_GRAPH

    target, engine = target_of({"reduce": reduce}).target(), graph or DEFAULT_GRAPH
    pruned = _cut(model, inputs, target, None, engine)
    return Compared(
        {"original": model, "pruned": pruned.model},
        inputs,
        pruned.recipe.widths,
        lambda multiple: _cut(model, inputs, target, multiple, engine).model,
    )


def _cut(
    model: nn.Module,
    inputs: ExampleInputs,
    target: Target,
    multiple: int | None,
    graph: str,
    latency: Mapping[str, Any] | None = None,
) -> Pruned:
    """The cut that `target` asks for, by the norms of the filters: latency asks how many stay, not which. latency: how it is
    measured, where it is what the target counts."""
    from prunecore import api

    asked: dict[str, Any] = {**asdict(target), "multiple_of": multiple}
    return api.prune(
        model, inputs, "l2norm", graph=graph, latency=latency if target.measure == "latency" else None, **asked
    )


# ---------------------------------------------------------------- measuring


def _report(
    compared: Compared, places: Sequence[tuple[str, int]], conditions: Conditions, align: int | None
) -> dict[str, Any]:
    from prunecore.errors import PrunecoreError
    from prunecore.measure.latency import pinned_threads
    from prunecore.report.diagnosis import ALIGNED, diagnosis, odd_widths

    networks, notes = dict(compared.networks), []
    if align is not None and compared.aligned is not None:
        networks[f"aligned to {align}"] = compared.aligned(align)
    rows, skipped = _rows(networks, compared.inputs, places, conditions)
    lagging = [(row.backend, row.batch) for row in rows if row.lags]
    if align is None and compared.aligned is not None and lagging and odd_widths(compared.widths or ()):
        try:
            networks[f"aligned to {ALIGNED}"] = compared.aligned(ALIGNED)
            again, _ = _rows(networks, compared.inputs, lagging, conditions)
            rows = [row for row in rows if row.place not in {r.place for r in again}] + again
        except PrunecoreError as error:
            notes.append(f"a cut with widths of a multiple of {ALIGNED} was not measured: {error}")
    with pinned_threads(conditions.threads) as threads:
        about = {"device": str(conditions.device), "threads": threads, "seconds": conditions.seconds}
    return {
        **about,
        "compared_with": next(iter(networks)),
        "rows": sorted(rows, key=lambda row: places.index((row.backend, row.batch))),
        "skipped": skipped,
        "diagnosis": [*diagnosis(rows, compared.widths), *notes],
    }


def _rows(
    networks: Mapping[str, nn.Module],
    inputs: ExampleInputs,
    places: Sequence[tuple[str, int]],
    conditions: Conditions,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """A row for every network but the first, a backend and batch size; and the backends that were not measured, with why."""
    from prunecore.errors import PrunecoreError
    from prunecore.measure import count
    from prunecore.measure.batch import at_batch
    from prunecore.report.diagnosis import Row

    macs = {name: count(model, inputs).macs for name, model in networks.items()}
    first, second, *_ = networks
    rows: list[Row] = []
    skipped: list[dict[str, Any]] = []
    for backend, size in places:
        if backend in {item["backend"] for item in skipped}:
            continue
        click.echo(f"{backend}, batch {size}: {', '.join(networks)} …", err=True)
        try:
            found = _measured(networks, at_batch(inputs, size), backend, size, conditions)
        except PrunecoreError as error:
            skipped.append({"backend": backend, "batch": size, "reason": str(error)})
            continue
        rows += [
            Row(
                backend,
                size,
                name,
                macs[name] / macs[first],
                found.timing(first),
                found.timing(name),
                found.ratio(name, first),
                None if name == second else found.ratio(name, second),
                found.settled,
            )
            for name in list(networks)[1:]
        ]
    return rows, skipped


def _measured(
    networks: Mapping[str, nn.Module], inputs: ExampleInputs, backend: str, size: int, conditions: Conditions
) -> Latency:
    from prunecore.errors import OutOfMemory
    from prunecore.measure.backends import prepare
    from prunecore.measure.latency import measure_latency

    device, threads = conditions.device, conditions.threads
    try:
        calls = prepare(backend, networks, inputs, device=device, threads=threads)
        (found,) = measure_latency(
            calls, inputs, batch_sizes=(size,), threads=threads, seconds=conditions.seconds, device=device
        )
    except (RuntimeError, MemoryError) as error:
        if (short := OutOfMemory.of(error, f"run batch {size} on {device}")) is not None:
            raise short from error
        raise
    return found


def _text(report: dict[str, Any]) -> str:
    from prunecore.report.diagnosis import latency_table

    threads = f"{report['threads']} threads" if report["threads"] > 1 else "1 thread"
    lines = [f"{report['device']}, {threads}; medians with their 95 % intervals, in rounds side by side", ""]
    lines += [latency_table(report["rows"], report["compared_with"]), ""]
    lines += [f"{item['backend']}, batch {item['batch']}: not measured: {item['reason']}" for item in report["skipped"]]
    return "\n".join([*lines, *report["diagnosis"]]).rstrip()
