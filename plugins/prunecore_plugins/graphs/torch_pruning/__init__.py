"""The graph engine `torch-pruning`."""

from __future__ import annotations

from prunecore_plugins.graphs.torch_pruning.engine import TorchPruningGraph

__all__ = ["TorchPruningGraph"]
