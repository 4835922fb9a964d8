"""Gathering and scattering by index tensors: dims that are not indexed keep their labels."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer, line
from prunecore_plugins.graphs.labels.rules.pointwise import combine


def _indices(call: Call, *tensors: Tensor | None) -> bool:
    """Freeze the labels of index tensors; whether they are made of constants."""
    leaf = True
    for tensor in tensors:
        info = call.info(tensor)
        call.drop(info.layers, "its values are used as indices")
        leaf = leaf and info.leaf
    return leaf


def embedding(call: Call) -> Info:
    """`embedding(weight, indices)`: rows are frozen, columns are the channels of the result."""
    weight, indices = call.args[0], call.args[1]
    info = call.info(weight)
    _indices(call, indices)
    call.drop(call.others(info, [1]), "rows of an embedding")
    labels = call.channels(info, 1, weight.shape[1])
    call.role(info, labels, "producer")
    rank = call.out.dim()
    return Info((Layer(rank - 1, line(labels, rank - 1, rank)),), leaf=False, why="an embedding")


def index_select(call: Call) -> Info:
    source, dim, index = call.args[0], call.args[1] % max(call.args[0].dim(), 1), call.args[2]
    info = call.info(source)
    leaf = _indices(call, index) and info.leaf
    call.drop([y for y in info.layers if y.axis == dim], "channels are picked by number")
    layers = [y for y in info.layers if y.axis != dim]
    chosen = [
        Layer(y.axis, np.take(y.labels, index.cpu().numpy().ravel(), axis=dim)) if y.varies(dim) else y for y in layers
    ]
    return Info(tuple(chosen), leaf, info.why)


def index(call: Call) -> Info:
    """`x[:, i, j]`: the indexed dims are replaced by those of the index tensors."""
    source, indices = call.args[0], call.args[1]
    info = call.info(source)
    leaf = _indices(call, *indices) and info.leaf
    used = [(d, t) for d, t in enumerate(indices) if t is not None]
    if any(t.dtype in (np.bool_,) or str(t.dtype) in ("torch.bool", "torch.uint8") for _, t in used):
        return _masked(call, info, used, leaf)
    dims = [d for d, _ in used]
    layers = call.mixed(info, dims, "channels are picked by number")
    rank = max(t.dim() for _, t in used)
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    position = dims[0] if adjacent else 0
    return Info(tuple(_moved(y, dims, position, rank) for y in layers), leaf, info.why)


def _moved(layer: Layer, dims: list[int], position: int, rank: int) -> Layer:
    """The layer after `dims` are gone and `rank` new dims stand at `position`."""
    axis = layer.axis - sum(d < layer.axis for d in dims)
    labels = layer.labels.squeeze(tuple(dims))
    labels = labels.reshape(labels.shape[:position] + (1,) * rank + labels.shape[position:])
    return Layer(axis + rank * (axis >= position), labels)


def _masked(call: Call, info: Info, used: list[tuple[int, Tensor]], leaf: bool) -> Info:
    if len(used) > 1:
        call.drop(info.layers, "several index tensors, one of them a mask")
        return Info((), leaf, info.why)
    dim, mask = used[0]
    dims = list(range(dim, dim + mask.dim()))
    layers = call.mixed(info, dims, "channels are picked by a mask")
    return Info(tuple(_moved(y, dims, dim, 1) for y in layers), leaf, info.why)


def index_put(call: Call) -> Info:
    """`x[i, j] = values`: the dims that are not indexed keep their labels, and the values have the same."""
    target, indices, values = call.args[:3]
    info = call.info(target)
    _indices(call, *indices)
    used = [(d, t) for d, t in enumerate(indices) if t is not None]
    mask = len(used) == 1 and str(used[0][1].dtype) in ("torch.bool", "torch.uint8")
    dims = [d + k for d, t in used for k in range(t.dim() if mask else 1)]
    layers = call.mixed(info, dims, "channels are written by number")
    rank = 1 if mask else max(t.dim() for _, t in used)
    position = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    there = target[tuple(slice(None) if t is None else t for t in indices)]
    call.trace.set(there, Info(tuple(_moved(y, dims, position, rank) for y in layers), info.leaf, info.why))
    found = combine(call, [there, values], there.shape)
    axes = {y.axis for y in call.info(there).layers}
    call.drop([y for y in found.layers if y.axis not in axes], "written into a tensor without channels")
    return Info(tuple(layers), found.leaf, info.why)


def gather(call: Call) -> Info:
    """`gather(x, dim, index)`: an index as large as `x` elsewhere keeps the other dims' channels."""
    source, dim, index_tensor = call.args[0], call.args[1] % max(call.args[0].dim(), 1), call.args[2]
    info = call.info(source)
    leaf = _indices(call, index_tensor) and info.leaf
    layers = call.mixed(info, [dim], "channels are picked by number")
    # the index itself is as long as the channel dim: it would have to be cut too
    call.drop(layers, "the index tensor is as long as the channels")
    return Info((), leaf, info.why)


RULES = {
    "aten.embedding": embedding,
    "aten.index_select": index_select,
    "aten.index": index,
    **dict.fromkeys(("aten.index_put", "aten.index_put_", "aten._index_put_impl_"), index_put),
    "aten.gather": gather,
}
