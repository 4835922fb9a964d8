"""`interface.pt`: what an architecture search left, with the cut written into it, by the loader that read it."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunecore import api
from prunecore.errors import ConfigError, ModelError, RunDirectoryError
from prunecore.export.checking import TOLERANCE, Exported, compared, remarks, runner, subject_of
from prunecore.files import write_whole
from prunecore.hookspecs import prune_save_model
from prunecore.registry import Choice, build_manager
from prunecore.run.directory import RECIPE, RESULT
from prunecore.run.loading import load_model
from prunecore.surgery import load_recipe

LOADER = "interface"
_CHAIN = "run"  # the loader of chained runs


def export_interface(run: Path, path: Path, *, tolerance: float = TOLERANCE) -> Exported:
    """Write the network of `run` as an interface file; it is loaded again and compared with the network of the run.

    Raises ConfigError where the network does not come from an interface file, so that there is no `nas` description to
    write; RunDirectoryError where the run is not finished; ModelError where what was written gives other outputs.
    """
    choice, seed, chained = _source(run)
    if choice.name != LOADER:
        raise ConfigError(
            f"{run}: its network comes from the loader {choice.name!r}; an interface file needs the `nas` description of "
            "one, as runs with --model interface:FILE have; write another format"
        )
    result = _result(run, total=chained)
    hook = build_manager([choice]).hook
    loaded = load_model(hook, choice.name, seed=seed)
    pruned = api.load(run, api.original_of(loaded))
    subject = subject_of(pruned, loaded.inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
        known = {
            "loaded": loaded,
            "pruned": pruned,
            "recipe": load_recipe(run / RECIPE),
            "result": result,
            "directory": Path(directory),
        }
        written = hook.prune_save_model(**{n: known[n] for n in inspect.signature(prune_save_model).parameters})
        if written is None:
            raise ModelError(f"the loader {choice.name!r} wrote no file")
        data = Path(written).read_bytes()
        with _beside_source(choice, data, Path(directory)) as again:
            found = compared(subject, runner(api.load_by(again, seed=seed).model), subject.sizes, tolerance)
    write_whole(path, lambda file: file.write(data))
    return Exported(path, found.error, tuple(sorted(subject.sizes)), remarks(found, tolerance))


@contextmanager
def _beside_source(choice: Choice, data: bytes, otherwise: Path) -> Iterator[Choice]:
    """The loader for a temporary file of that content, beside the loader's own file: it may name code that lies there.

    Where nothing can be written there, it lies in the directory `otherwise`.
    """
    home = Path(str(choice.section["source"])).resolve().parent
    place = home if os.access(home, os.W_OK) else otherwise
    with tempfile.NamedTemporaryFile(prefix=".export-", suffix=".pt", dir=place) as file:
        file.write(data)
        file.flush()
        yield Choice(choice.role, choice.name, {**choice.section, "source": file.name}, choice.where)


def _source(run: Path) -> tuple[Choice, int, bool]:
    """The loader at the beginning of a chain of runs, the seed that it was called with, and whether there is a chain."""
    parsed = api.parsed_of(run)
    choice = next(c for c in parsed.choices if c.role == "loader")
    if choice.name == _CHAIN:
        first, seed, _ = _source(Path(str(choice.section["source"])))
        return first, seed, True
    return choice, parsed.config.seed, False


def _result(run: Path, *, total: bool) -> Mapping[str, Any]:
    """`result.json`; with `total` its size is that of the whole chain, as the cut is that is written."""
    try:
        found: dict[str, Any] = json.loads((run / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{run}: no {RESULT} there; give the directory of a finished run") from error
    return {**found, "size": found["size_total"]} if total else found
