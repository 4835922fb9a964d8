"""Structured pruning of PyTorch networks. The public API; every name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of the lazy names below; a test holds the two lists together
    # isort: off
    from prunecore.api import Pruned as Pruned, load as load, prune as prune, trace as trace
    from prunecore.errors import (
        CertificateError as CertificateError,
        ConfigError as ConfigError,
        DataError as DataError,
        ForwardError as ForwardError,
        ModelError as ModelError,
        PluginError as PluginError,
        PrunecoreError as PrunecoreError,
        TargetError as TargetError,
        TrainingError as TrainingError,
    )
    from prunecore.graph import GraphBuilder as GraphBuilder, OpRule as OpRule
    from prunecore.hookspecs import hookimpl as hookimpl
    from prunecore.run.search import Problem as Problem
    from prunecore.surgery import apply_recipe as apply_recipe
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

# the module that defines each name; torch is imported only where a name needs it
_HOMES = {
    **dict.fromkeys(("Pruned", "load", "prune", "trace"), "prunecore.api"),
    **dict.fromkeys(
        (
            "CertificateError",
            "ConfigError",
            "DataError",
            "ForwardError",
            "ModelError",
            "PluginError",
            "PrunecoreError",
            "TargetError",
            "TrainingError",
        ),
        "prunecore.errors",
    ),
    **dict.fromkeys(("GraphBuilder", "OpRule"), "prunecore.graph"),
    **dict.fromkeys(("hookimpl",), "prunecore.hookspecs"),
    **dict.fromkeys(("Problem",), "prunecore.run.search"),
    **dict.fromkeys(("apply_recipe",), "prunecore.surgery"),
    **dict.fromkeys(
        (
            "Affine",
            "Calibration",
            "Candidate",
            "Certificate",
            "ChannelGroup",
            "Cost",
            "DependencyGraph",
            "ExampleInputs",
            "LoadedModel",
            "Member",
            "Proposal",
            "Recipe",
            "Score",
            "Target",
            "Task",
        ),
        "prunecore.types",
    ),
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prunecore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
