"""One operation as its rule sees it: arguments, results, and what may be done to the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prunecore_plugins.graphs.labels.layers import Info, Layer, counted, first

if TYPE_CHECKING:
    from prunecore.types import Indices, Role
    from prunecore_plugins.graphs.labels.trace import Trace


class Call:
    """An ATen operation. `out` is its result; rules read labels with `info`, and tie, freeze and cost."""

    __slots__ = ("args", "func", "kwargs", "out", "trace")

    def __init__(self, trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.trace, self.func, self.args, self.kwargs, self.out = trace, func, args, kwargs, out

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, given by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def name(self) -> str:
        return str(self.func.overloadpacket)

    @property
    def module(self) -> str:
        return self.trace.module

    def reason(self, text: str) -> str:
        """`text`, with the operation and the module that it happened in (once: a cause names its own)."""
        if " (aten." in text:
            return text
        return f"{text} ({self.name} in {self.module or 'the network itself'})"

    def info(self, tensor: Any) -> Info:
        """The label information of a tensor (of None or a number: no labels)."""
        return self.trace.info(tensor)

    # ------------------------------------------------------------ ties

    def tie(self, left: Indices, right: Indices, why: str) -> None:
        """Broadcast and tie element by element; what faces a position without a label is frozen, as `why` says."""
        if left is right:
            return
        if left.shape != right.shape:
            left, right = np.broadcast_arrays(left, right)
        if min(left.min(initial=0), right.min(initial=0)) < 0:
            none_left, none_right = left < 0, right < 0
            self.freeze(left[none_right], why)
            self.freeze(right[none_left], why)
            both = ~(none_left | none_right)
            left, right = left[both], right[both]
        if not np.array_equal(left, right):
            self.trace.builder.tie(left, right)

    def freeze(self, labels: Indices, why: str) -> None:
        """Freeze labels; -1 is passed over."""
        labels = labels[labels >= 0]
        if labels.size:
            self.trace.builder.freeze(labels, self.reason(why))

    def drop(self, layers: Sequence[Layer], why: str) -> None:
        """Freeze layers that the operation does not carry on."""
        for layer in layers:
            self.freeze(layer.labels, why)

    def mix(self, layer: Layer, dims: Sequence[int]) -> Layer:
        """`layer` where the operation mixes positions along `dims`: its labels must not depend on them."""
        ragged = tuple(d for d in dims if d != layer.axis and layer.labels.shape[d] > 1)
        if not ragged:
            return layer
        head = first(layer.labels, ragged)
        self.tie(head, layer.labels, f"positions along dims {list(ragged)} are mixed")
        return Layer(layer.axis, head)

    def mixed(self, info: Info, dims: Sequence[int], why: str) -> list[Layer]:
        """Layers whose axis is not in `dims`, mixed along `dims`; the others are frozen, as `why` says."""
        self.drop([y for y in info.layers if y.axis in dims], why)
        return [self.mix(y, dims) for y in info.layers if y.axis not in dims]

    def take(self, info: Info, axis: int) -> Layer | None:
        """The layer whose axis is `axis`; a layer that only depends on that dim is turned to it.

        Two layers on one dim (merged dims) are frozen.
        """
        found = [y for y in info.layers if y.axis == axis]
        if len(found) == 1:
            return found[0]
        if found:
            self.drop(found, "a dim that merges two cut dims")
            return None
        # a split dim whose first factor turns out to be the channels: the rest of it is one channel together
        turned = [y for y in info.layers if y.labels.shape[axis] > 1]
        if len(turned) != 1:
            return None
        return self.mix(Layer(axis, turned[0].labels), [turned[0].axis])

    def channels(self, info: Info, axis: int, size: int) -> Indices:
        """Labels along `axis` that do not depend on anything else, shape `(size,)`; -1 where there are none."""
        layer = self.take(info, axis)
        if layer is None:
            return np.full(size, -1, dtype=np.int64)
        return self.mix(layer, range(layer.labels.ndim)).labels.ravel()

    def others(self, info: Info, axes: Sequence[int]) -> list[Layer]:
        """Layers that `take` has not turned to one of `axes`."""
        return [
            y
            for y in info.layers
            if y.axis not in axes
            and not any(y.labels.shape[a] > 1 and all(z.axis != a for z in info.layers) for a in axes)
        ]

    def role(self, info: Info, labels: Indices, role: Role) -> None:
        """The parameter dims behind `labels` play `role`, where `info` is made of parameters only."""
        if info.leaf and labels.size:
            self.trace.builder.role(int(labels.ravel()[0]), role)

    def use(self, number: int, layer: Layer, reason: str) -> None:
        """The code gives `number` as the size along the axis of `layer`."""
        if layer.varies(layer.axis):
            self.trace.ledger.use(number, counted(layer), self.reason(reason))
        else:
            self.trace.ledger.fix(number, self.reason(reason))

    def sized(self, number: int) -> Indices | None:
        """Labels of a dim that is made `number` long; None where it does not follow anything."""
        ledger = self.trace.ledger
        labels = ledger.width_of(number)
        if labels is None and ledger.may_follow(number):
            labels = self.trace.builder.fresh(int(number))
            ledger.offer(number, labels, self.reason(f"the code gives the size {number}"))
        return labels

    def fix(self, number: int) -> None:
        """The code gives `number` as a size that no cut changes."""
        self.trace.ledger.fix(number, self.reason("a size that stays"))

    # ------------------------------------------------------------ costs

    def cost(self, scale: int, *factors: Indices | int) -> None:
        """MACs of the whole batch: `scale * product(factors)`; labels without any cut channel count as a constant."""
        if not self.trace.costs:
            return
        if self.trace.varying is not None:
            self.trace.builder.varies(self.trace.varying)
        constants = [f if isinstance(f, int) else f.size for f in factors if isinstance(f, int) or (f < 0).all()]
        total = scale * int(np.prod(constants, dtype=np.int64))
        cut = [f for f in factors if not isinstance(f, int) and not (f < 0).all()]
        # work that the batch does not divide is done once, whatever the batch
        scale = total // self.trace.batch if total % self.trace.batch == 0 else total
        self.trace.builder.op(self.module, self.name, scale, cut)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested lists, tuples, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, (list, tuple, set)):
        return [t for v in value for t in tensors_in(v)]
    if hasattr(value, "__dataclass_fields__"):
        return [t for f in value.__dataclass_fields__ for t in tensors_in(getattr(value, f, None))]
    if isinstance(getattr(value, "tensors", None), Tensor):  # torchvision's ImageList and the like
        return [value.tensors]
    return []


def size_of(tensor: Tensor | torch.Size, dims: Sequence[int]) -> int:
    """Product of the sizes along `dims`."""
    shape = tensor.shape if isinstance(tensor, Tensor) else tensor
    total = 1
    for dim in dims:
        total *= shape[dim]
    return total
