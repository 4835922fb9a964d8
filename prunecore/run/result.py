"""`result.json`: the record of a finished run. Its fields are a contract; others read them."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prunecore.types import Certificate, Cost, Recipe, Score, Target, Unprunable

PACKAGES = ("prunecore", "torch", "torch-pruning", "accelerate", "ptflops", "numpy")


@dataclass(frozen=True)
class Outcome:
    """What a run found out. stages: validation scores named before, after_cut, after_repair, after. latency: where it is
    the target."""

    algorithm: str
    criterion: str
    target: Target
    before: Cost
    after: Cost
    size: float
    size_total: float
    stages: Mapping[str, Score]
    certificate: Certificate
    unprunable: Sequence[Unprunable]
    notes: Sequence[str]
    recipe: Recipe
    seconds: float
    ledger: Mapping[str, Any]
    control: Mapping[str, Any] | None
    seed: int
    provenance: Mapping[str, Any]
    latency: Mapping[str, Any] | None = None


def spell_time(seconds: float) -> str:
    """`20h 20m 48s`, as the users' files have it."""
    whole = round(seconds)
    return f"{whole // 3600}h {whole % 3600 // 60}m {whole % 60}s"


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            module = importlib.import_module(package.replace("-", "_")) if package == "prunecore" else None
            found[package] = getattr(module, "__version__", "unknown")
    return found


def result_of(outcome: Outcome) -> dict[str, Any]:
    """Every field of the contract, plain values only."""
    values = {name: score.value for name, score in outcome.stages.items()}
    certificate = asdict(outcome.certificate)
    return {
        "algorithm": outcome.algorithm,
        "criterion": outcome.criterion,
        "target": {
            "measure": outcome.target.measure,
            "reduce": outcome.target.reduce,
            "multiple_of": outcome.target.multiple_of,
        },
        "size": outcome.size,
        "size_total": outcome.size_total,
        "macs": {"before": outcome.before.macs, "after": outcome.after.macs},
        "params": {"before": outcome.before.params, "after": outcome.after.params},
        "latency": dict(outcome.latency) if outcome.latency is not None else None,
        "metric": {
            "name": outcome.stages["before"].name,
            **{stage: values.get(stage) for stage in ("before", "after_cut", "after_repair", "after")},
        },
        "val_accuracy": values["after"],
        "time": spell_time(outcome.seconds),
        "seconds": outcome.seconds,
        "certificate": {**certificate, "inputs": [list(shape) for shape in outcome.certificate.inputs]},
        "unprunable": [asdict(u) for u in outcome.unprunable],
        "notes": list(outcome.notes),
        "widths": [asdict(w) for w in outcome.recipe.widths],
        "ledger": dict(outcome.ledger),
        "control": dict(outcome.control) if outcome.control is not None else None,
        "seed": outcome.seed,
        "provenance": dict(outcome.provenance),
        "versions": versions(),
    }
