"""Operations between the layers, by their autograd node: where the channels of a tensor are afterwards.

An operation is one line in a table; what is not in a table is frozen by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunecore.graph import GraphBuilder
from prunecore.types import Indices


@dataclass(frozen=True, eq=False)
class Flow:
    """The channels that a tensor of `shape` carries along `dim`; labels None = frozen, for `reason` (None: a scalar)."""

    labels: Indices | None
    dim: int
    shape: tuple[int, ...]
    reason: str | None = None


_ELEMENTWISE = frozenset(
    """Abs Add Alias Celu Clamp ClampMax ClampMin Clone Contiguous Cos Div Elu Erf Exp Expand Floor FusedDropout Gelu
    Hardsigmoid Hardswish Hardtanh LeakyRelu Lerp Log LogSigmoid Maximum Minimum Mish Mul NativeDropout Neg Pow Reciprocal
    Relu Relu6 Rsqrt Rsub Selu Sigmoid Sign Silu Sin Softplus Softsign Sqrt Square Sub Tanh Threshold ToCopy""".split()  # noqa: SIM905
)
_SPATIAL = frozenset(
    """AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D AvgPool2D AvgPool3D MaxPool2DWithIndices
    MaxPool3DWithIndices MkldnnAdaptiveAvgPool2D ReflectionPad2D ReflectionPad3D ReplicationPad2D ReplicationPad3D
    UpsampleBicubic2D UpsampleBilinear2D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact2D
    UpsampleTrilinear3D""".split()  # noqa: SIM905
)
_REDUCING = frozenset(("Mean", "Sum", "Amax", "Amin", "Var", "Std", "Max", "Min", "Norm", "LinalgVectorNorm"))
_ALONG = frozenset(
    ("Softmax", "LogSoftmax", "Slice", "Split", "SplitWithSizes", "Narrow", "Roll", "Flip", "IndexSelect", "Cumsum")
)
_VIEWS = frozenset(("View", "UnsafeView", "ReshapeAlias", "Reshape", "UnsafeReshape"))


def follow(node: Any, operands: Sequence[Flow | None], nodes: Mapping[Any, Any], builder: GraphBuilder) -> Flow:
    """What leaves `node`; operands that it cannot pass on safely are frozen in `builder`."""
    shape = tuple(node._input_metadata[0].shape)
    op = node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")
    given = [f for f in operands if f is not None]
    frozen = next((f.reason for f in given if f.labels is None and f.reason), None)
    flow: Flow | None = None
    if frozen is None:
        if op == "Cat":
            flow = _cat(node, operands, shape, nodes)
        elif op in _ELEMENTWISE or op == "NativeLayerNorm":
            flow = _elementwise(op, given, shape, builder)
        elif len(given) == 1 and given[0].labels is not None:
            flow = _unary(op, node, given[0], shape, nodes)
        elif not any(f.labels is not None for f in given):
            flow = Flow(None, 0, shape, None)
    if flow is not None:
        return flow
    reason = frozen or f"{op} cannot be followed"
    for other in given:
        if other.labels is not None:
            builder.freeze(other.labels, reason)
    return Flow(None, 0, shape, reason)


def _elementwise(op: str, given: Sequence[Flow], shape: tuple[int, ...], builder: GraphBuilder) -> Flow | None:
    """Operands broadcast from the right; those that vary along the channels are tied there."""
    carriers = [f for f in given if f.labels is not None]
    if not carriers:
        return Flow(None, 0, shape, None)
    places = {f.dim - len(f.shape) for f in carriers if f.shape[f.dim] > 1 or len(carriers) == 1}
    if len(places) != 1:
        return None
    place = places.pop()
    if op == "NativeLayerNorm" and place != -1:
        return None
    size = shape[place]
    wide = [f for f in carriers if f.labels is not None and len(f.labels) == size and f.dim - len(f.shape) == place]
    for flow in carriers:
        if all(flow is not w for w in wide):  # one value for all channels
            if flow.shape[flow.dim] != 1:
                return None
            builder.freeze(np.asarray(flow.labels), f"{op} repeats it over channels")
    if not wide or wide[0].labels is None:
        return None
    for flow in wide[1:]:
        builder.tie(wide[0].labels, np.asarray(flow.labels))
    return Flow(wide[0].labels, place + len(shape), shape)


def _unary(op: str, node: Any, flow: Flow, shape: tuple[int, ...], nodes: Mapping[Any, Any]) -> Flow | None:
    rank, dim = len(flow.shape), flow.dim
    target: int | None = None
    if op in _SPATIAL:
        target = dim if dim <= rank - 3 else None
    elif op == "AsStrided":  # a global pooling in channels_last
        alone = all(size == 1 for d, size in enumerate(shape) if d not in (0, dim))
        target = dim if alone and tuple(node._saved_stride)[dim] == 1 and not node._saved_storage_offset else None
    elif op == "ConstantPadNd":
        target = dim
    elif op == "Permute":
        target = [_wrap(d, rank) for d in node._saved_dims].index(dim)
    elif op in ("Transpose", "T"):
        pair = (0, 1) if op == "T" else (_wrap(node._saved_dim0, rank), _wrap(node._saved_dim1, rank))
        target = {pair[0]: pair[1], pair[1]: pair[0]}.get(dim, dim)
    elif op == "Unsqueeze":
        target = dim + (_wrap(node._saved_dim, rank + 1) <= dim)
    elif op == "Squeeze":
        target = _squeezed(flow, shape)
    elif op in ("Select", "Unbind"):
        along = _wrap(node._saved_dim, rank)
        target = None if along == dim else dim - (along < dim)
    elif op in _REDUCING:
        target = _reduced(node, dim, rank, len(shape))
    elif op in _ALONG:
        over = _saved(node, "dim", rank)
        target = None if over is None or dim in over else dim
    elif op in _VIEWS:
        return _view(node, flow, shape, nodes)
    if target is None or not 0 <= target < len(shape) or shape[target] != flow.shape[dim]:
        return None
    return Flow(flow.labels, target, shape)


def _wrap(dim: int, rank: int) -> int:
    """Autograd saves negative dims as unsigned words."""
    dim = dim - 2**64 if dim >= 2**63 else dim
    return dim + rank if dim < 0 else dim


def _saved(node: Any, name: str, rank: int) -> list[int] | None:
    value = getattr(node, f"_saved_{name}", getattr(node, f"_saved_{name}s", None))
    if value is None:
        return None
    return [_wrap(d, rank) for d in (value if isinstance(value, tuple | list) else (value,))]


def _reduced(node: Any, dim: int, rank: int, after: int) -> int | None:
    along = _saved(node, "dim", rank)
    if not along or dim in along:
        return None
    return dim if after == rank else dim - sum(d < dim for d in along)


def _squeezed(flow: Flow, shape: tuple[int, ...]) -> int | None:
    wide = [d for d, size in enumerate(flow.shape) if size != 1]
    left = [d for d, size in enumerate(shape) if size != 1]
    return left[wide.index(flow.dim)] if flow.dim in wide and len(wide) == len(left) else None


def _view(node: Any, flow: Flow, shape: tuple[int, ...], nodes: Mapping[Any, Any]) -> Flow | None:
    """Dims before the channels keep their product; the channels stay alone or are flattened with what follows them."""
    channels, before = flow.shape[flow.dim], math.prod(flow.shape[: flow.dim])
    for dim, size in enumerate(shape):
        if math.prod(shape[:dim]) == before and size != 1:
            inner = 1
            for trailing in (1, *flow.shape[flow.dim + 1 :]):
                inner *= trailing
                if size == channels * inner:
                    break
            else:
                return None
            if inner > 1 and not _agreed(node, nodes, "_stride", inner):
                return None
            return Flow(np.repeat(np.asarray(flow.labels), inner), dim, shape)
    return None


def _cat(node: Any, operands: Sequence[Flow | None], shape: tuple[int, ...], nodes: Mapping[Any, Any]) -> Flow | None:
    flows = [f for f in operands if f is not None and f.labels is not None]
    if len(flows) != len(operands) or len({f.dim for f in flows}) != 1:
        return None
    dim, along = flows[0].dim, _wrap(node._saved_dim, len(shape))
    if dim != along:
        return None
    labels = np.concatenate([np.asarray(f.labels) for f in flows])
    starts = np.cumsum([0, *(len(np.asarray(f.labels)) for f in flows)])
    if len(labels) != shape[dim] or not all(_agreed(node, nodes, "offset", int(start)) for start in starts[:-1]):
        return None
    return Flow(labels, dim, shape)


def _agreed(node: Any, nodes: Mapping[Any, Any], attribute: str, value: int) -> bool:
    """Torch-Pruning maps indices at this node as the shapes say."""
    known = nodes.get(node)
    if known is None:
        return False
    for dependency in known.dependencies:
        for mapping in dependency.index_mapping:
            found = getattr(mapping, attribute, None)
            if found is not None and (found[0] if isinstance(found, list | tuple) else found) == value:
                return True
    return False
