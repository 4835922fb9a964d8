"""What the tests of the label engine share: cut named groups, prove the cut, and read off which positions stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from prunecore_plugins.graphs.labels import LabelGraph
from torch import nn

from prunecore.measure import CostModel, count
from prunecore.surgery import certify, resize
from prunecore.types import DependencyGraph, ExampleInputs, Proposal


@dataclass(frozen=True)
class Cut:
    """A proven cut. kept[tensor, dim]: the positions that stay, in order."""

    graph: DependencyGraph
    model: nn.Module
    kept: Mapping[tuple[str, int], list[int]]
    attributes: Mapping[tuple[str, str], object]


def image(channels: int = 3, size: int = 8) -> ExampleInputs:
    return ExampleInputs((torch.randn(1, channels, size, size),))


def trace(net: nn.Module, inputs: ExampleInputs) -> DependencyGraph:
    return LabelGraph().prune_trace(net, inputs, ())


def cut(net: nn.Module, inputs: ExampleInputs, kept: Mapping[str, list[int]]) -> Cut:
    """Keep `kept[group]` of each group. The certificate must hold, and the cost model must agree with a new count."""
    graph = trace(net, inputs)
    proposal = Proposal({name: np.array(index) for name, index in kept.items()})
    small, recipe = resize(net, graph, proposal)
    certificate = certify(net, small, recipe, inputs)
    assert certificate.verified, certificate.notes
    counts = graph.widths | {name: len(index) for name, index in kept.items()}
    assert count(small, inputs) == CostModel(graph).cost(counts)
    return Cut(
        graph,
        small,
        {(s.tensor, s.dim): list(s.kept) for s in recipe.slices},
        {(e.module, e.attribute): e.new for e in recipe.attributes},
    )


def free(graph: DependencyGraph) -> dict[str, int]:
    """Channels of the groups that may be cut."""
    return {g.name: g.channels for g in graph.groups if g.frozen is None}


def frozen(graph: DependencyGraph) -> dict[str, str]:
    """Why the groups that may not be cut are frozen."""
    return {g.name: g.frozen for g in graph.groups if g.frozen is not None}
