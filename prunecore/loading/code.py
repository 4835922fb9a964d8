"""Code that the user named: modules and files that are imported because their names were typed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecore.errors import ConfigError, listing
from prunecore.training.forward import first_line

if TYPE_CHECKING:
    from types import ModuleType


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
        except (Exception, SystemExit) as fault:  # whatever the user's code raises; a script may end the program
            place_of = traceback.extract_tb(fault.__traceback__)[-1]
            where = f"{Path(place_of.filename).name}:{place_of.lineno}"
            raise ConfigError(f"{spec} failed at {where}: {type(fault).__name__}: {first_line(fault)}") from fault


def absolute(spec: str) -> str:
    """`path/to/file.py:name`, or a file, with the path made absolute, so that it means the same from any directory."""
    place, colon, name = spec.rpartition(":")
    if place.endswith(".py") and Path(place).is_file():
        return f"{Path(place).resolve()}{colon}{name}"
    return str(Path(spec).resolve()) if Path(spec).suffix and Path(spec).is_file() else spec


def _module_of(place: str) -> ModuleType:
    if not place.endswith(".py"):
        if not _is_there(place):
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
    told = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"_prunecore_{path.stem}_{told}"
    if name in sys.modules:  # once: classes of one name that are not the same class cannot be pickled
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{place} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as fault:  # a package above it
        if fault.name is None or not f"{module}.".startswith(f"{fault.name}."):
            raise
        return False


@contextmanager
def _path_of(place: str) -> Iterator[None]:
    before = list(sys.path)
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before
