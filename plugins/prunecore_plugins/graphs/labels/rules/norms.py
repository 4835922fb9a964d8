"""Normalisations: affine parameters and running statistics follow the channels."""

from __future__ import annotations

from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer, line


def batch_norm(call: Call) -> list[Info]:
    """`native_batch_norm(input, weight, bias, running_mean, running_var, …)` and its relatives."""
    x, *rest = call.args[:5]
    info = call.info(x)
    layers = [call.mix(y, range(2, x.dim())) if y.axis == 1 else y for y in info.layers]
    carried = Info(tuple(layers), info.leaf, info.why)
    labels = call.channels(carried, 1, x.shape[1])
    for tensor in rest:
        if isinstance(tensor, Tensor):
            _follow(call, tensor, line(labels, 0, 1), info.why)
    out = [y for y in carried.layers if y.axis != 1 and not y.varies(1)]
    result = Info((Layer(1, line(labels, 1, x.dim())), *out), info.leaf, info.why)
    statistics = Info((Layer(0, labels),), info.leaf, info.why)
    return [result, statistics, statistics]


def _follow(call: Call, tensor: Tensor, labels: object, why: str) -> None:
    info = call.info(tensor)
    mine = call.channels(info, 0, tensor.shape[0])
    call.role(info, mine, "norm")
    call.tie(mine, labels, f"tied to {why}" if info.layers else f"tied to {info.why}")  # type: ignore[arg-type]


def group_norm(call: Call) -> list[Info]:
    """`native_group_norm(input, weight, bias, N, C, HxW, group, eps)`: groups keep equally many channels."""
    x, weight, bias = call.args[:3]
    groups, info = int(call.args[6]), call.info(x)
    call.drop(call.others(info, [0, 1]), "positions are normalised together")
    labels = call.channels(info, 1, x.shape[1])
    for tensor in (weight, bias):
        if isinstance(tensor, Tensor):
            _follow(call, tensor, labels, info.why)
    if groups == x.shape[1]:
        if isinstance(getattr(call.trace.current, "num_groups", None), int) and (labels >= 0).any():
            call.trace.builder.attribute(call.module, "num_groups", labels)
    elif groups > 1:
        call.trace.builder.equal_parts(labels.reshape(groups, -1), call.reason(f"{groups} groups of a group norm"))
    batch = [call.mix(y, range(1, x.dim())) for y in info.layers if y.axis == 0]
    return [Info((Layer(1, line(labels, 1, x.dim())), *batch), info.leaf, info.why), Info(), Info()]


def layer_norm(call: Call) -> list[Info]:
    """`native_layer_norm(input, normalized_shape, weight, bias, eps)`; statistics run over the channels that stay."""
    x, shape = call.args[0], call.args[1]
    affine = [t for t in (call.arg(2, "weight"), call.arg(3, "bias")) if isinstance(t, Tensor)]
    info, rank = call.info(x), x.dim()
    inner = range(rank - len(shape), rank)
    layers = [call.mix(y, inner) for y in info.layers]
    for tensor in affine:
        own = call.info(tensor)
        for layer in own.layers:
            call.role(own, layer.labels, "norm")
        for dim in inner:
            mine = [y.aligned(rank) for y in own.layers if y.axis == dim - inner.start]
            theirs = [y for y in layers if y.axis == dim]
            if len(mine) == len(theirs) == 1:
                call.tie(theirs[0].labels, mine[0].labels, "tied to positions without channels")
            elif tensor.shape[dim - inner.start] > 1:
                call.drop(mine + theirs, f"tied to {own.why if theirs else info.why}")
    return [Info(tuple(layers), info.leaf, info.why), Info(), Info()]


def weight_norm(call: Call) -> list[Info]:
    """`_weight_norm_interface(v, g, dim)`: the norm of each slice along `dim` times `g`."""
    v, g = call.args[0], call.args[1]
    dim = int(call.arg(2, "dim", 0)) % v.dim()
    info, own = call.info(v), call.info(g)
    layers = [call.mix(y, [d for d in range(v.dim()) if d != dim]) for y in info.layers]
    mine = [y for y in own.layers if y.axis == dim]
    theirs = [y for y in layers if y.axis == dim]
    if len(mine) == len(theirs) == 1:
        call.tie(theirs[0].labels, mine[0].labels, "tied to positions without channels")
    else:
        call.drop(mine + theirs, "a weight norm without channels")
    call.drop([y for y in own.layers if y.axis != dim and g.shape[y.axis] > 1], "a weight norm without channels")
    return [Info(tuple(layers), info.leaf and own.leaf, info.why), Info()]


_BATCH = (
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm",
)  # fmt: skip

RULES = {
    **{f"aten.{name}": batch_norm for name in _BATCH},
    "aten.native_group_norm": group_norm,
    "aten.native_layer_norm": layer_norm,
    "aten._fused_rms_norm": layer_norm,
    "aten._weight_norm_interface": weight_norm,
}
