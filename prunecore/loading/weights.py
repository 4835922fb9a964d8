"""Weights in files, read without unpickling code, and the shapes of example inputs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunecore.errors import ModelError, listing
from prunecore.loading.pickled import read_pickled
from prunecore.training.forward import first_line
from prunecore.types import ExampleInputs

# under which a training script may have put the state dict into its file
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a `.safetensors` file or a torch file, read without unpickling code.

    A state dict inside `state_dict`, `model_state_dict` or `model` is found; a prefix `module.` on all names (left by
    data-parallel training) is taken off. Raises ModelError.
    """
    if not path.is_file():
        raise ModelError(f"weights {path}: there is no such file")
    found: Any = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for wrapper in _WRAPPERS:
        found = found[wrapper] if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(f"weights {path}: expected a mapping of names to tensors, got {type(found).__name__}")
    odd = [name for name in found if not isinstance(name, str)]
    if odd:
        raise ModelError(f"weights {path}: expected names of tensors, got the key {odd[0]!r}")
    parallel = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if parallel else name: value for name, value in found.items()}


def _pickled(path: Path) -> Any:
    try:
        return read_pickled(path)
    except ModelError as fault:
        if isinstance(fault.__cause__, pickle.UnpicklingError):
            raise ModelError(
                f"weights {path}: the file holds more than tensors; write it with torch.save(model.state_dict(), file)"
            ) from fault
        raise ModelError(f"weights {fault}") from fault


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as fault:  # an exception of its own, and those of the disk
        raise ModelError(f"weights {path}: cannot be read: {first_line(fault)}") from fault


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a file into `model`. Every name and shape must fit, else ModelError names those that do not."""
    given, own = read_state_dict(path), model.state_dict()
    missing = [n for n in own if n not in given]
    foreign = [n for n in given if n not in own]
    shaped = [
        f"{n} {tuple(given[n].shape)} for {tuple(v.shape)}"
        for n, v in own.items()
        if n in given and given[n].shape != v.shape
    ]
    kinds = {"missing": missing, "unknown": foreign, "of another shape": shaped}
    faults = [f"{what}: {listing(names, most=5)}" for what, names in kinds.items() if names]
    if faults:
        raise ModelError(f"weights {path} do not fit {type(model).__name__}: {'; '.join(faults)}")
    try:
        model.load_state_dict(given)
    except RuntimeError as fault:  # of the meta device, sparse, quantised
        raise ModelError(f"weights {path} cannot be copied into {type(model).__name__}: {_told(fault)}") from fault


def _told(fault: RuntimeError) -> str:
    """The first fault of the several that `load_state_dict` lists below a heading."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:300]


def example_inputs(shape: Sequence[int] | Sequence[Sequence[int]]) -> ExampleInputs:
    """Normal random inputs, always the same, of one shape `[1, 3, 224, 224]` or of several positional ones."""
    shapes = [shape] if all(isinstance(n, int) for n in shape) else shape
    generator = torch.Generator().manual_seed(0)
    return ExampleInputs(tuple(torch.randn(*s, generator=generator) for s in shapes))  # type: ignore[misc]
