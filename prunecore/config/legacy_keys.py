"""The keys that `Pruning.yaml` of the old tool has, which of them still mean something, and values as they stand there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prunecore.errors import listing, nearest

SEARCH = "netadapt"  # what My_pruning is called now
MODEL_MARKS = ("type_save_load", "path_to_resurs", "name_resurs")
_OLD_SECTIONS = ("path", "task", "dataset", "mask", "my_pruning", "nni_pruning")

_LOADER_KEYS = tuple(
    f"{name}_{part}"
    for name in ("batch_size", "num_workers", "pin_memory", "drop_last", "shuffle")
    for part in ("t", "v")
)
_MY_PRUNING = ("alf", "P", "cart", "iskl", "algoritm", "resize_alf", "delta_crop", "top_n", "restart")
_DETECTION = ("feature_maps", "feature_maps_w", "feature_maps_h", "aspect_ratios")
KNOWN: Mapping[str, tuple[str, ...]] = {
    "path": ("exp_save", "model_name", "modelName"),
    "model": (*MODEL_MARKS, "size", "gpu", "anchors", *_DETECTION),
    "task": ("type", "detection", "loss", "metrics", "is_self_traner", "self_traner"),
    "dataset": ("num_classes", "annotation_path", "annotation_name", "annotation_name_train", "annotation_name_val"),
    "mask": ("type", "sours_mask"),
    "my_pruning": (*_MY_PRUNING, "exact"),
    "nni_pruning": ("P", "training", "total_iteration", "gpu", "alf", "iskl", "algoritm"),
    "retraining": ("num_epochs", "lr", "dataLoader"),
    "training": ("num_epochs", "lr", "dataLoader"),
    "my_pruning.restart": ("start_iteration", "load"),
    "retraining.dataLoader": _LOADER_KEYS,
    "training.dataLoader": _LOADER_KEYS,
}
PLAIN = ("algorithm", "class_name", "modelName", "is_self_traner", "self_traner", *_DETECTION)

_TRAINER = "a trainer of your own goes with --data python:FILE.py:CALLABLE"
_IN_DETECTION = "belongs to a detection task"
_WITHOUT_MEANING = {
    "mask.type": "dependency groups are always used and found by tracing",
    "mask.sours_mask": "dependency groups are always used and found by tracing",
    "class_name": "layers are found by tracing",
    **dict.fromkeys(("task.detection", "model.anchors"), _IN_DETECTION),
    **dict.fromkeys(("dataset.annotation_name_train", "dataset.annotation_name_val"), _IN_DETECTION),
    **{f"{section}{key}": _IN_DETECTION for section in ("", "model.") for key in _DETECTION},
    **{f"{section}{key}": _TRAINER for section in ("", "task.") for key in ("is_self_traner", "self_traner")},
}


def is_legacy(settings: Mapping[str, Any]) -> bool:
    """Whether the settings are those of the old tool: its sections, and none that only we have."""
    model = settings.get("model")
    if isinstance(model, Mapping) and any(key in model for key in MODEL_MARKS):
        return True
    ours = isinstance(model, str) or (isinstance(model, Mapping) and ("spec" in model or "kind" in model))
    ours = ours or "data" in settings or "target" in settings
    return not ours and any(key in settings for key in ("path", "task", "dataset", "mask", "nni_pruning", "class_name"))


def is_legacy_key(key: str) -> bool:
    """Whether a dotted key, set on a file of the old tool, is to be set before it is translated."""
    root, _, inner = key.partition(".")
    return root in _OLD_SECTIONS or key in PLAIN or inner.partition(".")[0] in KNOWN.get(root, ())


def unknown(settings: Mapping[str, Any]) -> Iterator[str]:
    """A line for every key that the old tool did not have, with the nearest that it had."""
    for key, value in settings.items():
        if key not in KNOWN and key not in PLAIN:
            yield f"{key}: unknown key{nearest(str(key), (*KNOWN, *PLAIN))}"
        yield from _unknown_inside(str(key), value)


def _unknown_inside(where: str, value: Any) -> Iterator[str]:
    known = KNOWN.get(where)
    if known is None or is_none(value):
        return
    if not isinstance(value, Mapping):
        yield f"{where}: got {spell(value)}, expected a mapping with {listing(known, most=6)}"
        return
    for key, inner in value.items():
        if key not in known:
            yield f"{where}.{key}: unknown key{nearest(str(key), known)}"
        yield from _unknown_inside(f"{where}.{key}", inner)


def unused(settings: Mapping[str, Any], used: set[str], algorithm: str) -> Iterator[str]:
    """A line for the keys that have a value and were not used, those of one reason together."""
    reasons: dict[str, dict[str, None]] = {}
    for key in _leaves(settings):
        if key not in used:
            section = key.partition(".")[0]
            foreign = section in (("nni_pruning",) if algorithm == SEARCH else ("my_pruning", "retraining"))
            reason = f"{algorithm} does not have it" if foreign else _reason(key, algorithm)
            reasons.setdefault(reason, {})[section if foreign else key] = None
    yield from (f"{', '.join(keys)}: not used ({reason})" for reason, keys in reasons.items())


def _reason(key: str, algorithm: str) -> str:
    if key in _WITHOUT_MEANING:
        return _WITHOUT_MEANING[key]
    if key.endswith("_v"):
        return "a network is evaluated on every image once, in order, in batches of training.dataLoader.batch_size_v"
    return f"{algorithm} does not need it" if key != "model.gpu" else "nni_pruning.gpu is the device"


def _leaves(settings: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{where}{key}.")
        elif not is_none(value):
            yield f"{where}{key}"


# ---------------------------------------------------------------- values


def is_none(value: Any) -> bool:
    """`None` as YAML and as the old files have it: null, the text None, no text, a list of nothing else."""
    return value in (None, "None", "") or (isinstance(value, (list, tuple)) and all(map(is_none, value)))


def whole(value: Any) -> int:
    """A whole number, also as text. Raises ValueError."""
    found = number(value)
    if found != int(found):
        raise ValueError("expected a whole number")
    return int(found)


def number(value: Any) -> float:
    """A number, also as text: YAML reads `1e-5` as text. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a number")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise ValueError("expected a number") from None
    if found - found != 0:
        raise ValueError("expected a finite number")
    return found


def truth(value: Any) -> bool:
    """True or False, also as text. Raises ValueError."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise ValueError("expected True or False")
    return found


def names(value: Any) -> list[str]:
    """A list of names, or one name; a bare number is that of a layer of an `nn.Sequential`. Raises ValueError."""
    given = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if not is_none(v)]
    found = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in given]
    if not all(isinstance(v, str) for v in found):
        raise ValueError("expected a list of names")
    return found


def device(value: Any) -> str:
    """`0`, `"0"` -> `cuda:0`; `cpu`, `cuda:1` as they are. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("expected a number, cpu, or cuda:N")
    text = str(value).strip().lower()
    return f"cuda:{text}" if text.isdecimal() else text


def devices(value: Any) -> list[str]:
    """One device a worker. Raises ValueError."""
    return [device(v) for v in (value if isinstance(value, (list, tuple)) else [value])]


def size(value: Any) -> list[int]:
    """`[height, width]`. Raises ValueError."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("expected [height, width]")
    return [whole(v) for v in value]


def text(value: Any) -> str:
    """A name or a path. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("expected text")
    if any(not c.isprintable() for c in str(value)):
        raise ValueError("expected text in one line")
    return str(value)


def path(value: Any) -> Path:
    """A path; `~` is the home directory. Raises ValueError."""
    return Path(os.path.expanduser(text(value)))


def one_of(known: Mapping[str, Any], advice: str) -> Callable[[Any], Any]:
    """By name: case, dots, dashes and a module before it do not matter. The converter raises ValueError."""

    def convert(value: Any) -> Any:
        ours = listing([k for k in dict.fromkeys(known.values()) if k is not None] or known)
        if len(names(value)) != 1:
            raise ValueError(f"expected one name; known are {ours}, {advice}")
        plain = "".join(c for c in names(value)[0].rpartition(".")[2].lower() if c.isalnum()).removeprefix("multiclass")
        if plain not in known:
            raise ValueError(f"unknown name{nearest(plain, known)}; known are {ours}, {advice}")
        return known[plain]

    return convert


def spell(value: Any) -> str:
    """A value for a message of one line."""
    found = " ".join(str(value).split())
    return found if len(found) <= 80 else f"{found[:77]}…"


def fault(key: str, value: Any, error: Exception) -> str:
    return f"{key}: got {spell(value)!r}, {error}"
