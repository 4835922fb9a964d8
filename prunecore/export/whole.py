"""`.pth`: the whole module, which names the classes of its code but does not hold them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from prunecore.errors import ModelError
from prunecore.export.checking import TOLERANCE, Exported, compared, reason, remarks, runner, subject_of
from prunecore.files import write_whole
from prunecore.types import ExampleInputs

_PRIVATE = "_prunecore_"  # how `prunecore.loading` calls the files that it imports


def export_pth(model: nn.Module, inputs: ExampleInputs, path: Path, *, tolerance: float = TOLERANCE) -> Exported:
    """Write `model` in eval mode by `torch.save`; the model is left as it was.

    Classes of a file that the loader `python:FILE.py:…` imported are named as the file is, so that the file of that name has
    to be on the path of whoever reads it; a note says so. Raises ModelError where the network cannot be pickled.
    """
    subject = subject_of(model, inputs)
    with _importable(subject.model) as files:
        try:
            buffer = io.BytesIO()
            torch.save(subject.model, buffer)
            data = buffer.getvalue()
            loaded = torch.load(io.BytesIO(data), weights_only=False)  # it was made here
        except Exception as error:  # pickle raises what the objects raise
            name = type(subject.model).__name__
            raise ModelError(
                f"{name} cannot be pickled: {reason(error)}; write a .pt2 or .safetensors file instead"
            ) from error
    found = compared(subject, runner(loaded), subject.sizes, tolerance)
    write_whole(path, lambda file: file.write(data))
    notes = tuple(f"{file.name} has to be on the path of whoever loads it" for file in files)
    return Exported(path, found.error, tuple(sorted(subject.sizes)), (*notes, *remarks(found, tolerance)))


@contextlib.contextmanager
def _importable(model: nn.Module) -> Iterator[list[Path]]:
    """Meanwhile, classes of files that were imported under private names go by the names of the files, which are given."""
    names = sorted({type(m).__module__ for m in model.modules() if type(m).__module__.startswith(_PRIVATE)})
    before = dict(sys.modules)
    renamed: list[tuple[Any, str]] = []
    files = []
    try:
        for name in names:
            module = sys.modules[name]
            file = Path(str(module.__file__))
            _refuse_taken(file, before)
            sys.modules[file.stem] = module
            for value in _own(module):
                renamed.append((value, name))
                value.__module__ = file.stem
            files.append(file)
        if len({f.stem for f in files}) < len(files):
            raise ModelError(f"two files are called {files[0].name}: a .pth file cannot tell them apart; rename one")
        yield files
    finally:
        for value, name in renamed:
            value.__module__ = name
        for stem in {f.stem for f in files}:
            if stem in before:
                sys.modules[stem] = before[stem]
            else:
                sys.modules.pop(stem, None)


def _own(module: ModuleType) -> list[Any]:
    return [
        v for v in vars(module).values() if getattr(v, "__module__", None) == module.__name__ and hasattr(v, "__name__")
    ]


def _refuse_taken(file: Path, modules: dict[str, ModuleType]) -> None:
    """ModelError where whoever imports the file by its name would get something else."""
    there = modules.get(file.stem)
    spec = there.__spec__ if there is not None else importlib.util.find_spec(file.stem)
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() != file.resolve():
        raise ModelError(
            f"{file.name}: a .pth file would name the installed module {file.stem!r} instead; rename the file, or "
            "write a .pt2 or .safetensors file"
        )
