"""Flags and files -> the mapping that `config.parse` validates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path("Pruning.yaml")

# the embedded demo: a small residual network on the digits that ship in the package, trained on the spot
DEMO: dict[str, Any] = {
    "model": "demo",
    "data": "digits",
    "algorithm": "fpgm",
    "target": {"reduce": 0.5},
    "pretraining": {"epochs": 10},
    "training": {"epochs": 5},
    "control": "full",
}


@dataclass(frozen=True)
class Base:
    """What flags are laid upon. rest: the assignments that are still to be made. demo: there was no file."""

    settings: dict[str, Any]
    rest: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    demo: bool = False


def base_settings(
    config: Path | None, assignments: tuple[str, ...], *, flags: dict[str, Any], reduce: float | None
) -> Base:
    """The settings of the file (or of ./Pruning.yaml, or of the demo) with `flags` and `reduce`, which win over it.

    A file of the old tool is translated; the algorithm, the reduction and assignments of its own keys are set before that.
    """
    from prunecore.config.legacy import is_legacy, is_legacy_key, overlaid, translate
    from prunecore.config.reader import assign, read_yaml

    file = config if config is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if file is None and flags.get("model") is None:
        return Base(with_flags(DEMO, flags=flags, reduce=reduce), assignments, demo=True)
    settings = read_yaml(file) if file is not None else {}
    if file is None or not is_legacy(settings):
        return Base(with_flags(settings, flags=flags, reduce=reduce), assignments)
    old = [a for a in assignments if is_legacy_key(_key(a))]
    settings = overlaid(settings, algorithm=flags.get("algorithm"), reduce=reduce)
    for assignment in old:
        settings = assign(settings, assignment)
    found = translate(settings, base=file.parent)
    # model.size was that of the data too; beside another --model it is set once more
    rest = tuple(a for a in assignments if a not in old or _key(a) == "model.size")
    others = {key: value for key, value in flags.items() if key != "algorithm"}
    return Base(with_flags(found.settings, flags=others, reduce=None), rest, found.notes)


def _key(assignment: str) -> str:
    return assignment.partition("=")[0].strip()


def with_flags(settings: dict[str, Any], *, flags: dict[str, Any], reduce: float | None) -> dict[str, Any]:
    """Flags win over the file."""
    merged = {**settings, **{k: v for k, v in flags.items() if v is not None}}
    if reduce is not None:
        target = merged.get("target")
        merged["target"] = {**(target if isinstance(target, dict) else {}), "reduce": reduce}
    return merged


def with_option(settings: dict[str, Any], section: str, key: str, value: Any) -> dict[str, Any]:
    """`settings` with one more option of a `kind:source` section such as `model`."""
    old = settings.get(section)
    inner = {"spec": old} if isinstance(old, str) else dict(old or {})
    return {**settings, section: {**inner, key: value}}
