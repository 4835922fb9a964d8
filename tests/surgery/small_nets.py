"""Tiny networks and hand-made graphs for the tests of surgery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prunecore.types import (
    Affine,
    AttributeForm,
    ChannelGroup,
    DependencyGraph,
    ExampleInputs,
    Member,
    Partition,
    Proposal,
    Role,
)

IMAGES = ExampleInputs((torch.zeros(2, 3, 8, 8),))


class Plain(nn.Module):
    """conv -> batch norm -> relu -> conv -> pool -> linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Conv2d(6, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.out(x)).mean((2, 3)))


def member(tensor: str, dim: int, role: Role, index: Sequence[int] | int) -> Member:
    """A member of one position a channel; `index` may be the number of channels."""
    positions = range(index) if isinstance(index, int) else index
    return Member(tensor, dim, role, np.array(list(positions), dtype=np.int64)[:, None])


def graph_of(*groups: ChannelGroup, attributes: tuple[AttributeForm, ...] = ()) -> DependencyGraph:
    return DependencyGraph(groups=groups, links=(), ops=(), tensors=(), attributes=attributes, engine="by hand")


def plain_graph() -> DependencyGraph:
    inner = ChannelGroup(
        "conv",
        6,
        (
            member("conv.weight", 0, "producer", 6),
            member("conv.bias", 0, "bias", 6),
            member("norm.weight", 0, "norm", 6),
            member("norm.bias", 0, "bias", 6),
            member("norm.running_mean", 0, "buffer", 6),
            member("norm.running_var", 0, "buffer", 6),
            member("out.weight", 1, "consumer", 6),
        ),
    )
    outer = ChannelGroup(
        "out",
        4,
        (
            member("out.weight", 0, "producer", 4),
            member("out.bias", 0, "bias", 4),
            member("head.weight", 1, "consumer", 4),
        ),
    )
    head = ChannelGroup("head", 5, (member("head.weight", 0, "producer", 5),), frozen="the network's output")
    return graph_of(inner, outer, head)


def keep(kept: Mapping[str, Sequence[int]]) -> Proposal:
    return Proposal({name: np.array(index, dtype=np.int64) for name, index in kept.items()})


class Depthwise(nn.Module):
    """conv -> depthwise conv -> conv."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.c = nn.Conv2d(8, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.a(x))))


def depthwise_graph() -> DependencyGraph:
    group = ChannelGroup(
        "a",
        8,
        (
            member("a.weight", 0, "producer", 8),
            member("b.weight", 0, "producer", 8),
            member("c.weight", 1, "consumer", 8),
        ),
        partitions=(Partition(np.arange(8) // 4, "halves"),),
    )
    return graph_of(group, attributes=(AttributeForm("b", "groups", Affine(0, (("a", 1),))),))
