"""Dependency graphs built by hand, for the tests of the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunecore.types import (
    Affine,
    ChannelGroup,
    DependencyGraph,
    Link,
    Member,
    OpCost,
    Partition,
    TensorForm,
)


def index(channels: int, positions: int = 1) -> np.ndarray:
    return np.arange(channels * positions, dtype=np.int64).reshape(channels, positions)


def group(
    name: str,
    channels: int,
    *,
    consumer: str | None = None,
    parts: int = 1,
    frozen: str | None = None,
    positions: int = 1,
) -> ChannelGroup:
    """One producer `name.weight`, one consumer of the next layer; `parts` equal blocks."""
    members = [Member(f"{name}.weight", 0, "producer", index(channels, positions))]
    if consumer is not None:
        members.append(Member(f"{consumer}.weight", 1, "consumer", index(channels, positions)))
    part = np.arange(channels, dtype=np.int64) * parts // channels
    partitions = (Partition(part, "grouped"),) if parts > 1 else ()
    return ChannelGroup(name, channels, tuple(members), (), partitions, frozen)


def chain(
    widths: Sequence[int],
    *,
    parts: Mapping[int, int] | None = None,
    links: Sequence[Link] = (),
    inputs: int = 3,
    outputs: int = 10,
    areas: Sequence[int] | None = None,
    frozen: Mapping[int, str] | None = None,
) -> DependencyGraph:
    """Convolutions c0, c1, … of those widths, then `head`: c_i's MACs = area_i * width_{i-1} * width_i."""
    names = [f"c{i}" for i in range(len(widths))]
    groups = tuple(
        group(
            name,
            width,
            consumer=names[i + 1] if i + 1 < len(names) else "head",
            parts=(parts or {}).get(i, 1),
            frozen=(frozen or {}).get(i),
        )
        for i, (name, width) in enumerate(zip(names, widths, strict=True))
    )
    sizes = [
        Affine(w) if (frozen or {}).get(i) else Affine(0, ((n, 1),))
        for i, (n, w) in enumerate(zip(names, widths, strict=True))
    ]
    before = [Affine(inputs), *sizes]
    after = [*sizes, Affine(outputs)]
    areas = areas or [1] * len(after)
    layers = [*names, "head"]
    ops = tuple(OpCost(n, "conv", a, (i, o)) for n, a, i, o in zip(layers, areas, before, after, strict=True))
    tensors = tuple(TensorForm(f"{n}.weight", (o, i), True) for n, i, o in zip(layers, before, after, strict=True))
    return DependencyGraph(groups=groups, links=tuple(links), ops=ops, tensors=tensors, engine="hand")


def macs(graph: DependencyGraph, kept: Mapping[str, int] | None = None) -> int:
    """The graph's MACs by the plain formula, without the cost model."""
    counts = {**graph.widths, **(kept or {})}
    total = 0
    for op in graph.ops:
        product = op.scale
        for factor in op.factors:
            product *= factor(counts)
        total += product
    return total


def counts_of(kept: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: len(stays) for name, stays in kept.items()}
