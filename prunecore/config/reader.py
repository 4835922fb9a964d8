"""YAML, `--set` and flags -> `RunConfig`, with every fault reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prunecore.config.schema import RunConfig, TargetSection
from prunecore.config.training import LatencySettings
from prunecore.errors import ConfigError, nearest
from prunecore.execution.settings import ExecutionSettings
from prunecore.registry import (
    ALIASES,
    LOCAL,
    Choice,
    Plugins,
    faults_of,
    find,
    has_hook,
    installed,
    joined,
    options_of,
    settled,
)

DEFAULT_CRITERION = "taylor"
# roles whose options stand under the name of the plugin
_OWN_SECTIONS = frozenset({"algorithm", "graph", "tracker", "extension"})


@dataclass(frozen=True)
class Parsed:
    """A configuration, the plugins that it names, and the name of the criterion in use."""

    config: RunConfig
    choices: tuple[Choice, ...]
    criterion: str


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError with the place where it does not parse."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `prune init` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: got a {type(value).__name__}, expected a mapping of settings")
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        raise ConfigError(f"{path}: the key {odd[0]!r} is a {type(odd[0]).__name__}, expected text; quote it")
    return value


def assign(settings: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """`settings` with `a.b=c` set; the value is read as YAML. Specs written as text become mappings where needed."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment!r}: expected key.key=value, such as training.epochs=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value is not valid YAML") from error
    return _with(settings, keys, value)


def _with(settings: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    if len(keys) == 1:
        return {**settings, keys[0]: value}
    inner = settings.get(keys[0])
    if isinstance(inner, str):
        inner = {"spec": inner}
    return {**settings, keys[0]: _with(inner if isinstance(inner, Mapping) else {}, keys[1:], value)}


def parse(settings: Mapping[str, Any]) -> Parsed:
    """Validate `settings` and resolve the plugins that they name. One ConfigError lists every fault."""
    faults: list[str] = []
    settings = _hoist_reduce(settings)
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        faults += faults_of(error)
    there = installed()
    faults += _unknown_sections(settings, there)
    choices: list[Choice] = []
    criterion = ""
    if config is not None:
        choices, criterion, more = _choices(config, there)
        faults += more
        faults += [fault for choice in choices for fault in options_of(choice, there)[1]]
        choices = [settled(choice, there) for choice in choices]
    if config is None or faults:
        raise ConfigError(joined(faults))
    return Parsed(config, tuple(choices), criterion)


def _hoist_reduce(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """`reduce` in the algorithm's own section stands in for a missing `target.reduce`."""
    name = section_name(settings, str(settings.get("algorithm", "")))
    section = settings.get(name) if name else None
    if not isinstance(section, Mapping) or "reduce" not in section:
        return settings
    target = settings.get("target")
    own = {k: v for k, v in section.items() if k != "reduce"}
    merged = {"reduce": section["reduce"], **(target if isinstance(target, Mapping) else {})}
    return {**settings, name: own, "target": merged}


def section_name(settings: Mapping[str, Any], plugin: str) -> str:
    """The key of `settings` that is the plugin's section, whatever its case, or an empty string."""
    wanted = ALIASES.get(plugin.lower(), plugin.lower())
    matches = (k for k in settings if k not in RunConfig.model_fields and ALIASES.get(k.lower(), k.lower()) == wanted)
    return next(matches, "")


def _unknown_sections(settings: Mapping[str, Any], there: Plugins) -> list[str]:
    names = {p.name.lower() for role in ("algorithm", "graph", "tracker", "extension") for p in there[role]}
    known = {*RunConfig.model_fields, *names}
    return [
        f"{key}: unknown key{nearest(str(key), known)}"
        for key in settings
        if key not in RunConfig.model_fields and ALIASES.get(str(key).lower(), str(key).lower()) not in known
    ]


def _choices(config: RunConfig, there: Plugins) -> tuple[list[Choice], str, list[str]]:
    """The plugins that the run uses, the criterion's name, and faults such as an unknown name."""
    faults: list[str] = []
    choices: list[Choice] = []

    def choose(role: str, name: str, section: Mapping[str, Any], where: str) -> Choice | None:
        try:
            found = find(role, name, there).name
            own = role in _OWN_SECTIONS and (section_name(config.sections, found) or found)
            choice = Choice(role, found, section, own or where)
        except ConfigError as error:
            faults.append(f"{where}: {error}")
            return None
        choices.append(choice)
        return choice

    def section_of(name: str) -> Mapping[str, Any]:
        key = section_name(config.sections, name)
        value = config.sections.get(key)
        if value is not None and not isinstance(value, Mapping):
            faults.append(f"{key}: expected a mapping of options (got {value!r})")
        return value if isinstance(value, Mapping) else {}

    choose("loader", config.model.kind, config.model.options, "model")
    if config.data is not None:
        choose("task", config.data.kind, config.data.options, "data")
    choose("graph", config.graph, section_of(config.graph), "graph")
    if config.executor.kind == LOCAL:
        try:
            ExecutionSettings.model_validate(config.executor.options)
        except ValidationError as error:
            faults += faults_of(error, "executor")
    else:
        choose("executor", config.executor.kind, config.executor.options, "executor")
    for extension in there["extension"]:
        choose("extension", extension.name, section_of(extension.name), extension.name)
    for tracker in config.trackers:
        choose("tracker", tracker, section_of(tracker), "trackers")
    algorithm = choose("algorithm", config.algorithm, section_of(config.algorithm), "algorithm")
    if algorithm is None:
        return choices, "", faults
    try:
        criterion = criterion_of(algorithm.name, config.criterion, there)
    except ConfigError as error:
        return choices, "", [*faults, f"criterion: {error}"]
    if criterion != algorithm.name:
        choose("algorithm", criterion, section_of(criterion), "criterion")
    return choices, criterion, faults


def criterion_of(algorithm: str, criterion: str | None, there: Plugins | None = None) -> str:
    """The criterion in use: the algorithm itself where it is one, else the one asked for, else taylor."""
    asked = None if criterion is None else find("algorithm", criterion, there).name
    if not has_hook(find("algorithm", algorithm, there).load(), "prune_score"):
        return asked or DEFAULT_CRITERION
    if asked is not None and asked != algorithm:
        raise ConfigError(f"{algorithm} is a criterion itself, got {criterion!r} besides; drop one of them")
    return algorithm


def target_of(values: Mapping[str, Any]) -> TargetSection:
    """Validate a target given as keywords (the Python API); ConfigError lists every fault."""
    try:
        return TargetSection.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(faults_of(error, "target"))) from error


def latency_of(values: Mapping[str, Any]) -> LatencySettings:
    """The same for how latency is measured."""
    try:
        return LatencySettings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(faults_of(error, "latency"))) from error
