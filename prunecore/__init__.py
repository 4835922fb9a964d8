"""Structured pruning of PyTorch networks. The public API; every name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# isort: off
if TYPE_CHECKING:  # what a type checker sees of the lazy names below
    from prunecore.errors import (
        CertificateError as CertificateError,
        ConfigError as ConfigError,
        DataError as DataError,
        ModelError as ModelError,
        PluginError as PluginError,
        PrunecoreError as PrunecoreError,
        TargetError as TargetError,
        TrainingError as TrainingError,
    )
    from prunecore.graph import GraphBuilder as GraphBuilder
    from prunecore.hookspecs import hookimpl as hookimpl
    from prunecore.types import (
        Affine as Affine,
        Calibration as Calibration,
        Candidate as Candidate,
        Certificate as Certificate,
        ChannelGroup as ChannelGroup,
        Cost as Cost,
        DependencyGraph as DependencyGraph,
        ExampleInputs as ExampleInputs,
        LoadedModel as LoadedModel,
        Member as Member,
        Proposal as Proposal,
        Recipe as Recipe,
        Score as Score,
        Target as Target,
        Task as Task,
    )
# isort: on

__version__ = "0.1.0"

# name -> the module that defines it; torch is imported only where the name needs it
_HOMES = {
    "hookimpl": "prunecore.hookspecs",
    "GraphBuilder": "prunecore.graph",
    **dict.fromkeys(
        (
            "Affine", "Calibration", "Candidate", "Certificate", "ChannelGroup", "Cost", "DependencyGraph", "ExampleInputs",
            "LoadedModel", "Member", "Proposal", "Recipe", "Score", "Target", "Task",
        ),
        "prunecore.types",
    ),
    **dict.fromkeys(
        ("CertificateError", "ConfigError", "DataError", "ModelError", "PluginError", "PrunecoreError", "TargetError", "TrainingError"),
        "prunecore.errors",
    ),
}  # fmt: skip

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prunecore' has no attribute {name!r}")
