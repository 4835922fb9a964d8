"""The label engine: channel labels carried through one ordinary forward. No per-model tables."""

from __future__ import annotations

from prunecore_plugins.graphs.labels.engine import LabelGraph

__all__ = ["LabelGraph"]
