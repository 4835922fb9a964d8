"""Labels of one tensor, kept compact: an array of the tensor's rank that has size 1 along every dim it does not vary on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prunecore.types import Indices


@dataclass(frozen=True, eq=False)
class Layer:
    """Which channel each element belongs to, as far as dim `axis` is concerned.

    `axis` is the dim that gets shorter when channels go. labels: int64, the tensor's rank, size 1 or the tensor's along
    each dim, -1 where a position always stays. Where the labels vary along further dims the layer is *ragged*: for every
    index of those dims other channels may stay along `axis`, but equally many.
    """

    axis: int
    labels: Indices

    def aligned(self, rank: int) -> Layer:
        """The same with leading dims of size 1 up to `rank`, as broadcasting adds them."""
        extra = rank - self.labels.ndim
        if not extra:
            return self
        return Layer(self.axis + extra, self.labels.reshape((1,) * extra + self.labels.shape))

    def varies(self, dim: int) -> bool:
        return bool(self.labels.shape[dim] > 1)

    @property
    def is_line(self) -> bool:
        """Whether the labels vary along `axis` only."""
        return bool(self.labels.size == self.labels.shape[self.axis])


@dataclass(frozen=True, eq=False)
class Info:
    """What is known of one tensor's channels.

    leaf: made of parameters, buffers and constants only. why: what a dim without labels is, for reasons. made_by: the weights
    of one layer that this is linear in (None: of no single layer).
    """

    layers: tuple[Layer, ...] = ()
    leaf: bool = True
    why: str = "a constant made in the forward"
    made_by: Made | None = None


MOST_PARTS = 16


@dataclass(frozen=True, eq=False)
class Made:
    """What one layer makes: were the labels of its weights and biases scaled, so would be what it gives.

    weights: labels along the outputs, shape `(n,)`. biases: what is added to each of them, `(biases, n)`, -1 for nothing.
    scaled: how often it has been scaled since by a number that follows a width (a layer that runs twice is scaled once each
    time). degree: 2 where what the layer gives is multiplied by itself. parts: of how many pieces it is the union.
    also: the weights in front, where what they give is multiplied by a parameter and nothing else happens between.
    """

    weights: Indices
    biases: Indices
    scaled: int = 0
    degree: int = 1
    parts: int = 1
    also: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def by(cls, weights: Indices, bias: Info | None = None) -> Made | None:
        """None where there is a bias that is not made of a parameter of the same length."""
        made = cls(weights.ravel(), np.empty((0, weights.size), dtype=np.int64))
        if bias is None:
            return made
        if len(bias.layers) != 1 or not bias.leaf or bias.layers[0].labels.size != weights.size:
            return None
        return replace(made, biases=bias.layers[0].labels.reshape(1, -1))

    @classmethod
    def of_line(cls, weight: Info, bias: Info | None) -> Made | None:
        """A norm's weight, which what it gives is linear in as well."""
        if len(weight.layers) != 1 or not weight.leaf or not weight.layers[0].is_line:
            return None
        return cls.by(weight.layers[0].labels, bias)

    @classmethod
    def union(cls, parts: Sequence[Made]) -> Made | None:
        """Sums and joins are linear in the weights of all their parts; None of a stream that ever more layers are added to."""
        pieces = sum(p.parts for p in parts)
        if pieces > MOST_PARTS:
            return None
        rows = max(len(p.biases) for p in parts)
        padded = [np.pad(p.biases, ((0, rows - len(p.biases)), (0, 0)), constant_values=-1) for p in parts]
        both = np.unique(
            np.vstack((np.concatenate([p.weights for p in parts]), np.concatenate(padded, axis=1))), axis=1
        )
        also = np.concatenate([p.also for p in parts])
        return cls(both[0], both[1:], max(p.scaled for p in parts), max(p.degree for p in parts), pieces, also)

    def with_bias(self, bias: Info, given: Info) -> Made | None:
        """What is made so is `given`: with a parameter added that is as long there; None where it is none."""
        for layer in given.layers if bias.leaf else ():
            rank = layer.labels.ndim
            found = [y.aligned(rank) for y in bias.layers if y.axis + rank - y.labels.ndim == layer.axis]
            shape = np.broadcast_shapes(*(y.labels.shape for y in (layer, *found)))
            if len(found) == 1 and math.prod(shape) == self.weights.size:
                added = np.broadcast_to(found[0].labels, shape).reshape(1, -1)
                return replace(self, biases=np.concatenate((self.biases, added)))
        return None

    def times(self, other: Made | None) -> Made | None:
        """The product with what `other` makes: linear in this, unless both are made of the same weights."""
        common = np.isin(self.weights, other.weights) if other is not None else np.zeros(1, dtype=bool)
        if other is None or not common.any():
            return self
        same = common.all() and len(self.weights) == len(other.weights)
        return replace(self, degree=self.degree + other.degree) if same else None

    def at(self, weights: Indices) -> Made:
        """The part of it that `weights` stand for."""
        here = np.isin(self.weights, weights)
        return replace(self, weights=self.weights[here], biases=self.biases[:, here])

    @property
    def labels(self) -> Indices:
        return np.concatenate([self.weights, self.biases[self.biases >= 0]])


def first(labels: Indices, dims: tuple[int, ...]) -> Indices:
    """Index 0 along `dims`, which stay with size 1."""
    return labels[tuple(slice(0, 1) if d in dims else slice(None) for d in range(labels.ndim))]


def squeezed(labels: Indices, dims: range) -> Indices:
    """Size 1 along those of `dims` where the labels do not vary."""
    for dim in dims:
        if labels.shape[dim] > 1:
            head = first(labels, (dim,))
            if (labels == head).all():
                labels = head
    return labels


def line(labels: Indices, axis: int, rank: int) -> Indices:
    """One-dimensional `labels` laid along dim `axis` of `rank` dims."""
    return labels.reshape(tuple(-1 if d == axis else 1 for d in range(rank)))


def counted(layer: Layer) -> Indices:
    """Labels along the layer's axis, one line of them: all lines keep equally many."""
    others = tuple(d for d in range(layer.labels.ndim) if d != layer.axis)
    return first(layer.labels, others).ravel()
