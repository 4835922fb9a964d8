"""Entry points -> one plugin manager a run.

pluggy's own `load_setuptools_entrypoints` is not used: where two distributions offer one name it silently loads one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy
from pydantic import BaseModel, ValidationError

from prunecore import hookspecs
from prunecore.errors import ConfigError, PluginError, listing, nearest

ROLES = {
    "algorithm": "prunecore.algorithms",
    "loader": "prunecore.loaders",
    "graph": "prunecore.graphs",
    "task": "prunecore.tasks",
    "executor": "prunecore.executors",
    "tracker": "prunecore.trackers",
    "extension": "prunecore.extensions",
}

LOCAL = "local"  # the executor that the core has

# the names that existing users type, in lower case
ALIASES = {
    "taylorfoweight": "taylor",
    "lotteryticket": "lottery_ticket",
    "activationmeanrank": "activation_mean_rank",
    "my_pruning": "netadapt",
    "torch_pruning": "torch-pruning",
}

TRACE_VARIABLE = "PRUNECORE_TRACE_PLUGINS"


@dataclass(frozen=True)
class Installed:
    """A plugin that some installed distribution offers."""

    role: str
    name: str
    distribution: str
    version: str
    entry: EntryPoint

    def load(self) -> type:
        """Import the plugin's class; PluginError where that fails."""
        try:
            loaded = self.entry.load()
        except Exception as error:
            raise PluginError(
                f"plugin {self.name!r} of {self.distribution} {self.version} cannot be imported from {self.entry.value!r}: "
                f"{type(error).__name__}: {error}; reinstall or remove {self.distribution}"
            ) from error
        if not isinstance(loaded, type):
            raise PluginError(
                f"plugin {self.name!r} of {self.distribution}: {self.entry.value!r} is a {type(loaded).__name__}, expected a class"
            )
        return loaded


Plugins = Mapping[str, tuple[Installed, ...]]


def installed() -> Plugins:
    """Every plugin, by role, ordered by name. The same entry of one distribution, found twice on the path, counts once.

    This looks through all distributions there are: do it once, and hand on what it found.
    """
    scanned = entry_points()
    names: dict[int, tuple[str, str]] = {}  # of a distribution; it reads its metadata anew whenever it is asked

    def of_role(role: str) -> tuple[Installed, ...]:
        found: dict[tuple[str, str, str], Installed] = {}
        for entry in scanned.select(group=ROLES[role]):
            of = entry.dist
            if id(of) not in names:
                names[id(of)] = (of.name, of.version) if of else ("unknown", "?")
            distribution, version = names[id(of)]
            key = (entry.name, distribution, entry.value)
            found.setdefault(key, Installed(role, entry.name, distribution, version, entry))
        return tuple(sorted(found.values(), key=lambda i: (i.name, i.distribution)))

    return {role: of_role(role) for role in ROLES}


def find(role: str, name: str, there: Plugins | None = None) -> Installed:
    """The one plugin of that role and name (case does not matter, old names are accepted); PluginError otherwise.

    there: what `installed` found; None: look now.
    """
    plugins = (there or installed())[role]
    wanted = ALIASES.get(name.lower(), name.lower())
    matches = [p for p in plugins if p.name.lower() == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        offers = " and ".join(f"{m.distribution} {m.version}" for m in matches)
        raise PluginError(f"{role} {name!r} is offered by {offers}: uninstall one of them")
    names = [p.name for p in plugins] + ([LOCAL] if role == "executor" else [])
    hint = nearest(name, [*names, *ALIASES])
    more = (
        ""
        if role != "loader"
        else "; code is python:FILE.py:CALLABLE, a run is the directory that holds its config.yaml"
    )
    raise PluginError(f"unknown {role} {name!r}{hint}; installed: {listing(names) or 'none'}{more}")


@dataclass(frozen=True)
class Choice:
    """One plugin that the run uses, and the section of the configuration that fills its options."""

    role: str
    name: str
    section: Mapping[str, Any]
    where: str


def faults_of(error: ValidationError, where: str = "") -> list[str]:
    """One line a fault of a pydantic error, as `where.field: message (got …)`."""
    lines = []
    for fault in error.errors(include_url=False):
        path = ".".join(str(p) for p in (where, *fault["loc"]) if str(p))
        message = str(fault["msg"]).removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key"
        got = fault.get("input")
        shown = "" if fault["type"] in {"missing", "extra_forbidden"} or isinstance(got, dict) else f" (got {got!r})"
        lines.append(f"{path or 'config'}: {message}{shown}")
    return lines


def options_of(choice: Choice, there: Plugins | None = None) -> tuple[BaseModel | None, list[str]]:
    """The validated options of the plugin (None where it has none), and one line a fault."""
    options_class = getattr(find(choice.role, choice.name, there).load(), "Options", None)
    if options_class is None:
        fault = f"{choice.where}: {choice.name} has no options, got {listing(choice.section)}"
        return None, [fault] if choice.section else []
    if not (isinstance(options_class, type) and issubclass(options_class, BaseModel)):
        raise PluginError(f"plugin {choice.name!r}: Options must be a pydantic model, got {options_class!r}")
    try:
        return options_class.model_validate(dict(choice.section)), []
    except ValidationError as error:
        known = listing(options_class.model_fields)
        return None, [f"{line}; {choice.name} knows: {known}" for line in faults_of(error, choice.where)]


def unused_of(choice: Choice, there: Plugins | None = None) -> str | None:
    """Which given options of the plugin have no effect beside the others, where its options say so by `unused()`."""
    options, _ = options_of(choice, there)
    told = getattr(options, "unused", None)
    line = told() if callable(told) else None
    return None if line is None else f"{choice.name}: {line}"


def settled(choice: Choice, there: Plugins | None = None) -> Choice:
    """The choice with every path of its options made absolute, so that `config.yaml` means the same from any directory."""
    options, _ = options_of(choice, there)
    if options is None:
        return choice
    told = {name: value for name, value in options if name in options.model_fields_set}
    paths = {name: _absolute(value) for name, value in told.items() if isinstance(value, Path | tuple)}
    texts = {name: value for name, value in told.items() if isinstance(value, str)}  # a validator may have settled them
    return replace(choice, section={**choice.section, **texts, **paths})


def _absolute(value: Any) -> Any:
    """Paths as absolute text, also inside a tuple."""
    if isinstance(value, tuple):
        return [_absolute(item) for item in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def joined(faults: Sequence[str]) -> str:
    """One fault as it is, several under a count."""
    return faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults:", *faults])


def build_manager(choices: Sequence[Choice], *, defaults: Sequence[Any] = ()) -> pluggy.PluginManager:
    """ONE plugin manager that holds the core's defaults, the chosen plugins and every extension.

    Raises PluginError (a plugin is broken), ConfigError (every fault of all their options).
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for default in defaults:
        manager.register(default)
    there = installed()
    told = {c.name for c in choices if c.role == "extension"}
    extensions = [Choice("extension", e.name, {}, e.name) for e in there["extension"] if e.name not in told]
    faults: list[str] = []
    for choice in (*extensions, *choices):
        options, found = options_of(choice, there)
        faults += found
        if not found:
            plugin_class = find(choice.role, choice.name, there).load()
            plugin = plugin_class() if options is None else plugin_class(options)
            register(manager, plugin, f"{choice.role}:{choice.name}")
    if faults:
        raise ConfigError(joined(faults))
    if os.environ.get(TRACE_VARIABLE):
        _trace_calls(manager)
    return manager


def register(manager: pluggy.PluginManager, plugin: Any, name: str) -> None:
    """Register an instance; a hook that does not exist, or has other arguments, is a PluginError that names it."""
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        known = [n for n in dir(hookspecs) if n.startswith("prune_")]
        wrong = [n for n in dir(plugin) if n.startswith("prune_") and n not in known]
        hints = "".join(f"; {n!r} is no hook{nearest(n, known)}" for n in wrong)
        raise PluginError(f"plugin {name!r} does not fit the hooks: {str(error).splitlines()[-1]}{hints}") from error


def hooks_of(plugin_class: type) -> tuple[str, ...]:
    """Names of the hooks that a plugin class implements, in the order of the menu."""
    attribute = f"{hookspecs.PROJECT}_impl"
    return tuple(
        name
        for name, value in vars(hookspecs).items()
        if name.startswith("prune_") and callable(value) and hasattr(getattr(plugin_class, name, None), attribute)
    )


def has_hook(plugin_class: type, hook: str) -> bool:
    return hook in hooks_of(plugin_class)


def _trace_calls(manager: pluggy.PluginManager) -> None:
    """Print every hook call with its arguments and result to standard error."""
    import sys

    def show(value: Any) -> str:
        text = repr(value)
        return text if len(text) <= 80 else f"<{type(value).__name__}>"

    def before(hook_name: str, methods: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        arguments = ", ".join(f"{k}={show(v)}" for k, v in kwargs.items())
        print(f"[plugins] {hook_name}({arguments})", file=sys.stderr)

    def after(outcome: pluggy.Result[Any], hook_name: str, methods: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        shown = repr(outcome.exception) if outcome.exception else show(outcome.get_result())
        print(f"[plugins] {hook_name} -> {shown}", file=sys.stderr)

    add: Callable[..., Any] = manager.add_hookcall_monitoring
    add(before, after)
