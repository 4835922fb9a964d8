"""Flags and files -> the mapping that `config.parse` validates."""

from __future__ import annotations

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


def base_settings(config: Path | None, *, other_model: bool) -> tuple[dict[str, Any], bool]:
    """The settings of the file (or of ./Pruning.yaml, or of the demo), and whether it is the demo."""
    from prunecore.config.reader import read_yaml

    if config is not None:
        return read_yaml(config), False
    if DEFAULT_FILE.is_file():
        return read_yaml(DEFAULT_FILE), False
    return ({}, False) if other_model else (DEMO, True)


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
