"""Whose code may run for a file: directories and installed packages that the user named, and nothing else."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator
from torch import nn

from prunecore.errors import ConfigError, ModelError, listing
from prunecore.training.forward import first_line

if TYPE_CHECKING:
    from types import ModuleType


class TrustOptions(BaseModel):
    """Options of loaders whose files name code.

    trust_code: directories whose `.py` files may be imported; `true`: the directory of the file itself. trust_package:
    installed packages whose modules (`nn.Module` classes) a file may name. allow_pickle: unpickle the file whatever code it
    names or holds; only for files that you would run as a program.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trust_code: tuple[Path | Literal[True], ...] = ()
    trust_package: tuple[str, ...] = ()
    allow_pickle: bool = False

    @field_validator("trust_code", "trust_package", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if value is None or value is False:
            return ()
        return (value,) if isinstance(value, (str, Path, bool)) else value

    @field_validator("trust_code")
    @classmethod
    def _absolute(cls, value: tuple[Path | Literal[True], ...]) -> tuple[Path | Literal[True], ...]:
        for place in value:
            if isinstance(place, Path) and not place.is_dir():
                raise ValueError(f"{place} is no directory; name the one that holds the code")
        return tuple(place.resolve() if isinstance(place, Path) else place for place in value)

    def trust(self, file: Path) -> Trust:
        """What is trusted for `file`."""
        home = file.resolve().parent
        directories = tuple(dict.fromkeys(home if place is True else place for place in self.trust_code))
        return Trust(home, directories, self.trust_package, self.allow_pickle)


class UntrustedError(ModelError):
    """A file names code that the user has not trusted. `name`: which; `advice`: how to trust it."""

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(f"{name} is code that is not trusted; {advice}")
        self.name = name
        self.advice = advice


@dataclass(frozen=True)
class Trust:
    """home: directory of the file that names code. directories: absolute. packages: names of installed top-level packages."""

    home: Path
    directories: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    allow_pickle: bool = False

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """The directories stand first on the path inside; afterwards the path is as it was."""
        before = list(sys.path)
        sys.path[:0] = [str(directory) for directory in self.directories]
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:] = before

    def home_of(self, module: str) -> Path | None:
        """The trusted directory that holds `module` (its top-level file or folder); None where none does.

        Raises ConfigError where a module of that name is there from elsewhere too: which one a file means cannot be told.
        """
        top = module.partition(".")[0]
        if top == "__main__":  # the program that runs
            return None
        importlib.invalidate_caches()  # the files may be younger than the last look
        for directory in self.directories:
            spec = PathFinder.find_spec(top, [str(directory)])
            if spec is not None and _all_below(spec, directory):
                _refuse_clash(top, directory)
                return directory
        return None

    def module(self, name: str) -> ModuleType:
        """Import a module of a trusted directory. Raises ModelError where it, or what it imports, cannot be imported, and
        where a part of its dotted name lies elsewhere, behind a link.
        """
        home = self.home_of(name)
        if home is None:
            raise ModelError(f"module {name!r} lies in no trusted directory")
        parts = name.split(".")
        with self.on_path():
            for length in range(1, len(parts) + 1):
                found = _import_below(".".join(parts[:length]), home)
        return found

    def own(self, module: str, name: str) -> Any:
        """The class or function `name` that a module of a trusted directory itself defines.

        Raises ModelError for what it has only imported from elsewhere, and for anything else.
        """
        found = _attribute(self.module(module), name)
        defined = getattr(found, "__module__", None)
        if not (inspect.isclass(found) or inspect.isfunction(found)) or self.home_of(str(defined)) is None:
            raise ModelError(
                f"{module}.{name} is no class or function that the trusted {self.home_of(module)} defines, and is not used"
            )
        return found

    def resolve(self, module: str, name: str) -> Any:
        """The class or function `module.name` that a file may use.

        Raises ModelError that names it, and says which flag would trust it, where the user has not.
        """
        top, *inner = module.split(".")
        if any(part.startswith("__") for part in inner):
            raise ModelError(f"{module}.{name} lies in a module that runs as a program, and is not used")
        if self.home_of(module) is not None:
            return self.own(module, name)
        if top in self.packages:
            found = _attribute(_imported(module), name)
            if _is_data_class(found) and found.__module__.partition(".")[0] == top:
                return found
            raise ModelError(
                f"{module}.{name} of the trusted package {top} is no nn.Module class of it and is not used; "
                "--allow-pickle takes the whole file as a program"
            )
        raise UntrustedError(f"{module}.{name}", self._advice(module))

    def _advice(self, module: str) -> str:
        top = module.partition(".")[0]
        if module == "__main__":
            return "it was saved from a script: move the class into a module, save it again, and trust its directory"
        if top in sys.stdlib_module_names:
            return (
                "it belongs to Python itself and is not among what a network may hold; know why it is there before "
                "--allow-pickle, which takes the whole file as a program"
            )
        beside = [self.home / f"{top}.py", self.home / top]
        if any(place.exists() for place in beside):
            return f"it lies beside the file; if you trust it: --trust-code {quote(str(self.home))}"
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        places = str((spec.origin, spec.submodule_search_locations)) if spec is not None else ""
        if "site-packages" in places or "dist-packages" in places:
            return f"if you trust the package: --trust-package {top}"
        return f"if you trust it: --trust-code DIR, where DIR holds {top}.py or {top}/"


def trusted_path(text: str, trust: Trust) -> Path:
    """The file that `text` names, relative to the file that names it. Raises ModelError unless it lies below a trusted directory."""
    try:
        path = (trust.home / text).resolve()
        there = path.is_file()
    except (OSError, ValueError) as fault:
        raise ModelError(f"{text!a:.200}: is no path of a file") from fault
    if not any(_below(path, directory) for directory in trust.directories):
        raise UntrustedError(f"{text!a:.200}", f"if you trust it: --trust-code {quote(str(path.parent))}")
    if not there:
        raise ModelError(f"{text!a:.200}: there is no such file in {trust.home}")
    return path


def trusted_callable(spec: str, trust: Trust) -> Callable[..., Any]:
    """What `module.name:callable` or `file.py:callable` names, inside what is trusted.

    Raises ModelError where it is not trusted, is not there, or is no function or class of that place.
    """
    place, _, name = spec.rpartition(":")
    is_file = place.endswith(".py")
    if not (is_file or _is_name(place)) or not name.isidentifier():
        raise ModelError(f"got {spec!a:.200}, expected `module:callable` or `file.py:callable`")
    if is_file:
        path = trusted_path(place, trust)
        home = next(d for d in trust.directories if _below(path, d))
        module = ".".join(path.relative_to(home).with_suffix("").parts)
        if not _is_name(module):
            raise ModelError(f"{place}: {module!r} cannot be imported under that name; rename the file")
        found = trust.own(module, name)
    elif trust.home_of(place) is not None:
        found = trust.own(place, name)
    else:
        top = place.partition(".")[0]
        if top not in trust.packages:
            raise UntrustedError(spec, trust._advice(place))
        found = _attribute(_imported(place), name)
        if str(getattr(found, "__module__", "")).partition(".")[0] != top:
            raise ModelError(f"{spec} is not defined in the trusted package {top} and is not called")
    if not callable(found):
        raise ModelError(f"{spec} is a {type(found).__name__}, expected a function")
    called: Callable[..., Any] = found
    return called


def _is_name(module: str) -> bool:
    return all(part.isidentifier() and len(part.encode()) <= 200 for part in module.split("."))


def _import_below(name: str, home: Path) -> ModuleType:
    """Import one module, whose parent is imported, unless it lies outside `home`."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the parent is no package, or was put there by hand
        spec = None
    if spec is None:
        raise ModelError(f"{home}: there is no module {name!r}")
    if not _all_below(spec, home):
        raise ModelError(f"module {name!r} lies in {Path(spec.origin or name).resolve()}, outside the trusted {home}")
    return _imported(name, f"{home}: ")


def _imported(module: str, where: str = "") -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as fault:  # code may raise anything while it is imported
        raise ModelError(
            f"{where}module {module!r} cannot be imported: {type(fault).__name__}: {first_line(fault)}"
        ) from fault


def _attribute(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if inspect.ismodule(found) and found is not module:
            raise ModelError(f"{module.__name__}.{name} goes through another module and is not used")
        if part.startswith("__") or not (found is module or inspect.isclass(found)):
            raise ModelError(f"{module.__name__}.{name} is no class or function by its own name and is not used")
        try:
            found = getattr(found, part, None)
        except Exception as fault:  # packages may import what they hold only when it is asked for
            raise ModelError(f"{module.__name__}.{name} cannot be imported: {first_line(fault)}") from fault
        if found is None:
            own = (n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__)
            known = listing(own, most=8)
            raise ModelError(f"{module.__name__} has no {name!r}; its classes: {known or 'none'}")
    if inspect.ismodule(found):
        raise ModelError(f"{module.__name__}.{name} goes through another module and is not used")
    return found


def _is_data_class(found: Any) -> bool:
    return inspect.isclass(found) and (issubclass(found, (nn.Module, enum.Enum)) or is_dataclass(found))


def _refuse_clash(top: str, directory: Path) -> None:
    loaded = sys.modules.get(top)
    places = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", ())] if loaded is not None else []
    elsewhere = [str(p) for p in places if p and not _below(Path(p), directory)]
    if loaded is not None and not any(places):
        elsewhere = ["Python itself"]
    if loaded is None:
        spec = importlib.util.find_spec(top)
        if spec is not None and not _all_below(spec, directory):
            elsewhere = [str(spec.origin or top)]
    if elsewhere:
        raise ConfigError(
            f"{directory} holds a module {top!r}, and so does {elsewhere[0]}; rename yours, else it cannot be told which is meant"
        )


def _all_below(spec: ModuleSpec, directory: Path) -> bool:
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location and spec.origin else ())]
    return bool(places) and all(_below(Path(p), directory) for p in places)


def _below(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory)
