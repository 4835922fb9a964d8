"""`prune export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunecore.cli.sources import is_run, loaded_of, refuse_options, trust_flags

if TYPE_CHECKING:
    from torch import nn

    from prunecore.export import Exported
    from prunecore.types import ExampleInputs, Recipe

# what each format is called in the directory of a run; beside a MODEL it goes by the name of the model
NAMES = {
    "onnx": "model.onnx",
    "pt2": "model.pt2",
    "pth": "model.pth",
    "interface": "interface.pt",
    "safetensors": "export/model.safetensors",
}


@dataclass(frozen=True, eq=False)
class Source:
    """A network to export. recipe: relative to `original`, a network of the original class."""

    model: nn.Module
    inputs: ExampleInputs
    original: nn.Module
    recipe: Recipe


@click.command("export")
@click.argument("source", metavar="RUN|MODEL")
@click.option("--to", "kind", required=True, type=click.Choice(list(NAMES)), help="Format of the file.")
@click.option("--out", type=click.Path(path_type=Path), help="File; default: RUN/model.onnx and so on, or ./NAME.onnx.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--device", default="cpu", show_default=True, help="Where the network runs; part of a pt2 or pth file.")
@click.option("--opset", type=click.IntRange(min=1), help="Of ONNX; default: what torch recommends.")
@click.option("--static-batch", is_flag=True, help="Fix the batch of onnx and pt2 at that of the example inputs.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-4,
    show_default=True,
    help="Largest absolute difference from the network's own outputs.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODEL.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Option of the loader.")
@trust_flags()
def command(
    source: str,
    kind: str,
    out: Path | None,
    force: bool,
    device: str,
    weights: Path | None,
    assignments: tuple[str, ...],
    **how: Any,
) -> None:
    """Write the network of a run, or any network, to a file that others read.

    The file is read back and compared with the network on random inputs of several batch sizes, and appears only where they
    agree. By default it stands in the directory of the run: model.onnx, model.pt2, model.pth, interface.pt, or
    export/model.safetensors with export/recipe.json.
    """
    path = out or _default(source, kind)
    refuse_misplaced(kind, **how)
    refuse_existing(path, kind, force=force)
    if is_run(source):
        refuse_options({"--weights": weights, "--set": assignments or None})
    if kind == "interface":
        exported = _interface(source, path, how["tolerance"])
    else:
        exported = _write(kind, _source(source, weights, assignments, device), path, **how)
    click.echo(line(exported))
    for note in exported.notes:
        click.echo(f"  {note}")


def line(exported: Exported) -> str:
    """`run/model.onnx: 1.43 MiB, max abs difference 3.6e-07, batch sizes checked: 1, 2, 3`."""
    size = exported.path.stat().st_size / 2**20
    sizes = ", ".join(map(str, exported.batch_sizes))
    error = f"{exported.max_abs_error:.1e}" if exported.max_abs_error else "0"
    return f"{exported.path}: {size:.2f} MiB, max abs difference {error}, batch sizes checked: {sizes}"


def refuse_misplaced(kind: str, *, opset: int | None, static_batch: bool, tolerance: float) -> None:
    """ConfigError for options that mean nothing for this format."""
    from prunecore.errors import ConfigError

    if opset is not None and kind != "onnx":
        raise ConfigError(f"--opset: of --to onnx only, got --to {kind}")
    if static_batch and kind not in ("onnx", "pt2"):
        raise ConfigError(f"--static-batch: of --to onnx and pt2 only, got --to {kind}; its batch is always free")


def refuse_existing(path: Path, kind: str, *, force: bool) -> None:
    """ConfigError where something is in the way, or the file would be a run's own."""
    from prunecore.errors import ConfigError
    from prunecore.run.directory import RECIPE, WEIGHTS

    if path.is_dir():
        raise ConfigError(f"{path}: is a directory, expected a file; give --out FILE")
    pair = kind == "safetensors"
    if pair and path.name == WEIGHTS and is_run(str(path.parent)):
        raise ConfigError(f"{path}: the run holds its weights and recipe there already; give --out FILE for a copy")
    there = [p for p in (path, *([path.with_name(RECIPE)] if pair else [])) if p.exists()]
    if there and not force:
        raise ConfigError(f"{there[0]}: exists already; give --force to overwrite it, or another --out")


def _default(source: str, kind: str) -> Path:
    """In the directory of a run; for a MODEL `./resnet18.onnx`, by the last part of its name."""
    if is_run(source):
        return Path(source) / NAMES[kind]
    place, _, name = source.rpartition(":")
    return Path(Path(place.rpartition(":")[2] if place.endswith(".py") else name).stem or "model").with_suffix(
        Path(NAMES[kind]).suffix
    )


def _source(source: str, weights: Path | None, assignments: tuple[str, ...], device: str) -> Source:
    """The network and what it is made of, on `device`."""
    from prunecore import api
    from prunecore.run.directory import RECIPE
    from prunecore.surgery import load_recipe
    from prunecore.training import resolve_device

    place = resolve_device(device)
    if is_run(source):
        directory = Path(source)
        loaded = api.load_original(directory)
        original = api.original_of(loaded)
        model = api.load(directory, original)
        return Source(model.to(place), loaded.inputs, original, load_recipe(directory / RECIPE))
    loaded = loaded_of(source, weights, assignments)
    return Source(loaded.model.to(place), loaded.inputs, api.original_of(loaded), loaded.recipe)


def _write(
    kind: str, source: Source, path: Path, *, opset: int | None, static_batch: bool, tolerance: float
) -> Exported:
    from prunecore import export

    model, inputs, free = source.model, source.inputs, not static_batch
    if kind == "onnx":
        return export.export_onnx(model, inputs, path, opset=opset, dynamic_batch=free, tolerance=tolerance)
    if kind == "pt2":
        return export.export_pt2(model, inputs, path, dynamic_batch=free, tolerance=tolerance)
    if kind == "pth":
        return export.export_pth(model, inputs, path, tolerance=tolerance)
    return export.export_safetensors(
        model, inputs, path, original=source.original, recipe=source.recipe, tolerance=tolerance
    )


def _interface(source: str, path: Path, tolerance: float) -> Exported:
    from prunecore.errors import ConfigError
    from prunecore.export import export_interface

    if not is_run(source):
        raise ConfigError(
            f"--to interface: of a RUN only, got the MODEL {source!r}; prune it first, with --model interface:FILE"
        )
    return export_interface(Path(source), path, tolerance=tolerance)
