"""For loaders and tasks: code that the user named, weights in files, shapes of inputs. Nothing else is ever executed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunecore.errors import ConfigError, ModelError, listing
from prunecore.types import ExampleInputs

if TYPE_CHECKING:
    from types import ModuleType

# under which a training script may have put the state dict into its file
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def run_named(spec: str, args: Mapping[str, Any]) -> Any:
    """What the callable `module:name` or `path/to/file.py:name` returns for the keyword arguments `args`.

    A file is loaded under a private name, its directory stands first on the path meanwhile (for its siblings), and the
    path is restored. Raises ConfigError where there is no such module, file or callable, or where it raises.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"got {spec!r}, expected `module:callable` or `path/to/file.py:callable`")
    with _path_of(place):
        try:
            module = _module_of(place)
            found = getattr(module, name, None)
            if not callable(found):
                public = listing(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
                raise ConfigError(f"{place} has no callable {name!r}; it has: {public or 'none'}")
            return found(**args)
        except ConfigError:
            raise
        except Exception as fault:  # whatever the user's code raises
            place_of = traceback.extract_tb(fault.__traceback__)[-1]
            where = f"{Path(place_of.filename).name}:{place_of.lineno}"
            raise ConfigError(f"{spec} failed at {where}: {type(fault).__name__}: {fault}") from fault


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a `.safetensors` file or a torch file, read without unpickling code.

    A state dict inside `state_dict`, `model_state_dict` or `model` is found; a prefix `module.` on all names (left by
    data-parallel training) is taken off. Raises ModelError.
    """
    if not path.is_file():
        raise ModelError(f"weights {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise ModelError(
            f"weights {path}: the file holds more than tensors; write it with torch.save(model.state_dict(), file)"
        ) from fault
    except Exception as fault:  # safetensors has an exception of its own, torch several
        raise ModelError(
            f"weights {path}: cannot be read: {str(fault).partition(chr(10))[0] or type(fault).__name__}"
        ) from fault
    for wrapper in _WRAPPERS:
        found = found[wrapper] if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(f"weights {path}: expected a mapping of names to tensors, got {type(found).__name__}")
    parallel = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if parallel else name: value for name, value in found.items()}


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
    model.load_state_dict(given)


def absolute(spec: str) -> str:
    """`path/to/file.py:name`, or a file, with the path made absolute, so that it means the same from any directory."""
    place, colon, name = spec.rpartition(":")
    if place.endswith(".py") and Path(place).is_file():
        return f"{Path(place).resolve()}{colon}{name}"
    return str(Path(spec).resolve()) if Path(spec).suffix and Path(spec).is_file() else spec


def example_inputs(shape: Sequence[int] | Sequence[Sequence[int]]) -> ExampleInputs:
    """Normal random inputs, always the same, of one shape `[1, 3, 224, 224]` or of several positional ones."""
    shapes = [shape] if all(isinstance(n, int) for n in shape) else shape
    generator = torch.Generator().manual_seed(0)
    return ExampleInputs(tuple(torch.randn(*s, generator=generator) for s in shapes))  # type: ignore[misc]


def _module_of(place: str) -> ModuleType:
    if not place.endswith(".py"):
        if importlib.util.find_spec(place) is None:
            hint = (
                f"; give the file: {place.replace('.', '/')}.py"
                if Path(place.replace(".", "/") + ".py").exists()
                else ""
            )
            raise ConfigError(f"module {place!r} is not installed{hint}")
        return importlib.import_module(place)
    path = Path(place).resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {place}")
    name = f"_prunecore_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{place} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _path_of(place: str) -> Iterator[None]:
    before = list(sys.path)
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before
