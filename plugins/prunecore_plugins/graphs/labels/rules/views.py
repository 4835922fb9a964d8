"""Shape changes that keep every element: view, permute, expand, squeeze, transposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer, line, squeezed

Block = tuple[int, int, int, int]


def blocks(old: Sequence[int], new: Sequence[int]) -> list[Block]:
    """The smallest runs `(i0, i1, j0, j1)` with `prod(old[i0:i1]) == prod(new[j0:j1])`, in order."""
    found: list[Block] = []
    i = j = 0
    while i < len(old) and j < len(new):
        i0, j0 = i, j
        left, right = old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                return [(0, len(old), 0, len(new))]
        found.append((i0, i, j0, j))
    if i < len(old) or j < len(new):
        found.append((i, len(old), j, len(new)))
    return found


def view(call: Call) -> Info:
    """Reshape. Each block of dims is merged and split on its own; the others' labels cost nothing."""
    source, info = call.args[0], call.info(call.args[0])
    given = call.trace.given.shape
    given = given if given is not None and len(given) == call.out.dim() else None
    if not info.layers or source.shape == call.out.shape:
        _numbers(call, list(info.layers), given)
        return info
    layers = reshape(call, info, tuple(source.shape), tuple(call.out.shape), given)
    _numbers(call, layers, given)
    return Info(tuple(layers), info.leaf, info.why)


def _numbers(call: Call, layers: Sequence[Layer], given: Sequence[int] | None) -> None:
    """What the code gives for each dim of the result (-1: whatever is left)."""
    for dim, number in enumerate(given or ()):
        cut = [y for y in layers if y.axis == dim]
        for layer in cut:
            if number != -1:
                call.use(number, layer, f"the code gives the size {number}")
        if not cut:
            call.fix(number)


def reshape(
    call: Call, info: Info, old: tuple[int, ...], new: tuple[int, ...], given: Sequence[int] | None = None
) -> list[Layer]:
    """`info.layers` of a tensor of shape `old` after a reshape to `new`; given: its numbers as the code gave them."""
    if 0 in old:
        call.drop(info.layers, "an empty tensor")
        return []
    runs = blocks(old, new)
    found = [_reshape_layer(call, layer, old, new, runs, given) for layer in info.layers]
    return [layer for layer in found if layer is not None]


def _reshape_layer(
    call: Call,
    layer: Layer,
    old: tuple[int, ...],
    new: tuple[int, ...],
    runs: list[Block],
    given: Sequence[int] | None,
) -> Layer | None:
    i0, i1, j0, j1 = next(run for run in runs if run[0] <= layer.axis < run[1])
    if (
        old[layer.axis] == 1 and i1 - i0 > 1
    ):  # merged with dims that have channels of their own, it would be in their way
        call.drop([layer], "its dim of size 1 is gone")
        return None
    # merged with a faster dim that it depends on, the order of the kept ones would change: tie along that dim; the labels
    # stay apart, for a later view must not take what is tied for a dim without channels
    call.mix(layer, range(layer.axis + 1, i1))
    labels = layer.labels
    expanded, target = list(labels.shape), [1] * len(new)
    for a, b, c, d in runs:
        if any(labels.shape[k] > 1 for k in range(a, b)):
            expanded[a:b], target[c:d] = old[a:b], new[c:d]
    labels = np.broadcast_to(labels, expanded).reshape(target)
    if j1 - j0 > 1:
        labels = squeezed(labels, range(j0, j1))
    for a, b, c, d in runs:
        if (a, c) != (i0, j0) and b - a > 1 and d - c > 1:
            labels = squeezed(labels, range(c, d))
    return _split(call, labels, new, range(j0, j1), given)


def _split(
    call: Call, labels: np.ndarray, new: tuple[int, ...], dims: range, given: Sequence[int] | None
) -> Layer | None:
    """The dim of `dims` that gets shorter: the only one that varies, or the one whose number follows, or the last.

    Where the code says the last number itself (`heads, 64`), it is the one that an attribute says: whole heads go.

    The others have equal parts; what comes behind it stays together.
    """
    varying = [d for d in dims if labels.shape[d] > 1]
    if not varying:
        axis = next((d for d in dims if new[d] > 1), next(iter(dims), None))
        if axis is None:
            call.freeze(labels, "its dim of size 1 is gone")
            return None
        return Layer(axis, labels)
    axis = varying[-1]
    moving = [d for d in varying if given is not None and (given[d] == -1 or call.trace.ledger.follows(given[d]))]
    if not moving and given is not None and not call.trace.ledger.may_follow(given[axis]):
        moving = [d for d in varying if call.trace.ledger.may_follow(given[d])]
    if len(moving) == 1 and moving[0] != axis:
        axis = moving[0]
        labels = call.mix(Layer(axis, labels), [d for d in varying if d > axis]).labels
        varying = [d for d in dims if labels.shape[d] > 1]
    if len(varying) > 1:
        parts = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])
        reason = call.reason(f"a dim is split into {tuple(new[d] for d in dims)}")
        call.trace.builder.equal_parts(parts, reason, may_vanish=True)
    return Layer(axis, labels)


def permuted(info: Info, order: Sequence[int]) -> Info:
    """`info` of a tensor whose dims are put into `order`."""
    place = {dim: position for position, dim in enumerate(order)}
    layers = tuple(Layer(place[y.axis], y.labels.transpose(order)) for y in info.layers)
    return Info(layers, info.leaf, info.why)


def permute(call: Call) -> Info:
    rank = call.args[0].dim()
    return permuted(call.info(call.args[0]), [d % rank for d in call.arg(1, "dims")])


def transpose(call: Call) -> Info:
    tensor, info = call.args[0], call.info(call.args[0])
    rank = tensor.dim()
    if not info.layers or rank < 2:
        return info
    a, b = (call.args[1] % rank, call.args[2] % rank) if len(call.args) > 2 else (0, 1)
    order = list(range(rank))
    order[a], order[b] = b, a
    return permuted(info, order)


def flipped_dims(call: Call) -> Info:
    """`numpy_T` and friends."""
    return permuted(call.info(call.args[0]), list(reversed(range(call.args[0].dim()))))


def unsqueeze(call: Call) -> Info:
    info, dim = call.info(call.args[0]), call.arg(1, "dim") % call.out.dim()
    layers = tuple(Layer(y.axis + (y.axis >= dim), np.expand_dims(y.labels, dim)) for y in info.layers)
    return Info(layers, info.leaf, info.why)


def squeeze(call: Call) -> Info:
    return view(call)


def squeeze_in_place(call: Call) -> Info:
    """`squeeze_`: the old shape is gone by now; the labels still have its rank."""
    info = call.info(call.args[0])
    dims = call.arg(1, "dim")
    if dims is None:
        call.drop(info.layers, "squeezed in place")
        return Info((), info.leaf, info.why)
    layers = []
    for layer in info.layers:
        rank = layer.labels.ndim
        gone = {d % rank for d in ([dims] if isinstance(dims, int) else dims)} if rank > call.out.dim() else set()
        if layer.axis in gone or len(gone) != rank - call.out.dim():
            call.drop([layer], "squeezed in place")
        else:
            layers.append(Layer(layer.axis - sum(d < layer.axis for d in gone), layer.labels.squeeze(tuple(gone))))
    return Info(tuple(layers), info.leaf, info.why)


def expand(call: Call) -> Info:
    source, info = call.args[0], call.info(call.args[0])
    rank = call.out.dim()
    given = call.trace.given.shape
    given = given if given is not None and len(given) == rank else None
    layers = spread(call, source, given, range(rank))
    for layer in (y.aligned(rank) for y in info.layers):
        if call.out.shape[layer.axis] != source.shape[layer.axis - rank + source.dim()]:
            call.drop([layer], "a single channel is spread over a dim")
        else:
            layers.append(layer)
    _numbers(call, layers, given)
    return Info(tuple(layers), info.leaf, info.why)


def spread(call: Call, source: Tensor, given: Sequence[int] | None, dims: Iterable[int]) -> list[Layer]:
    """One value spread over as many places as another tensor has channels: it has those channels.

    given: what the code says of the dims of the result.
    """
    rank = call.out.dim()
    layers = []
    for dim in dims if given is not None and len(given) == rank else ():
        here = dim - rank + source.dim()
        labels = call.trace.ledger.width_of(given[dim]) if given is not None else None
        if labels is not None and (here < 0 or source.shape[here] == 1):
            layers.append(Layer(dim, line(labels, dim, rank)))
    return layers


def strided(call: Call) -> Info:
    """`as_strided`: only where it states the shape and strides that are there (adaptive pooling does)."""
    source, info = call.args[0], call.info(call.args[0])
    if tuple(call.arg(1, "size")) == tuple(source.shape) and _same_strides(source, call.arg(2, "stride")):
        return info
    call.drop(info.layers, "strides set by hand")
    return Info((), info.leaf, call.reason("strides set by hand"))


def _same_strides(tensor: Tensor, strides: Sequence[int]) -> bool:
    found = zip(tensor.shape, tensor.stride(), strides, strict=True)
    return all(size == 1 or old == new for size, old, new in found)


def diagonal(call: Call) -> Info:
    source, info = call.args[0], call.info(call.args[0])
    dims = [d % source.dim() for d in (call.arg(2, "dim1", 0), call.arg(3, "dim2", 1))]
    layers = call.mixed(info, dims, "a diagonal of channels")
    rest = [d for d in range(source.dim()) if d not in dims]
    moved = [Layer(rest.index(y.axis), y.labels.squeeze(tuple(dims))[..., None]) for y in layers]
    return Info(tuple(moved), info.leaf, info.why)


def real_view(call: Call) -> Info:
    info = call.info(call.args[0])
    return Info(tuple(Layer(y.axis, y.labels[..., None]) for y in info.layers), info.leaf, info.why)


def complex_view(call: Call) -> Info:
    info, last = call.info(call.args[0]), call.args[0].dim() - 1
    layers = call.mixed(info, [last], "channels become real and imaginary parts")
    return Info(tuple(Layer(y.axis, y.labels[..., 0]) for y in layers), info.leaf, info.why)


RULES = {
    **dict.fromkeys(
        ("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias", "aten.flatten", "aten.unflatten"),
        view,
    ),
    "aten.permute": permute,
    "aten.transpose": transpose,
    "aten.t": transpose,
    "aten.transpose_": transpose,
    "aten.t_": transpose,
    "aten.swapaxes_": transpose,
    "aten.unsqueeze_": unsqueeze,
    "aten.squeeze_": squeeze_in_place,
    "aten.numpy_T": flipped_dims,
    "aten.unsqueeze": unsqueeze,
    "aten.squeeze": squeeze,
    "aten.expand": expand,
    "aten.as_strided": strided,
    "aten.as_strided_": strided,
    "aten.diagonal": diagonal,
    "aten.view_as_real": real_view,
    "aten.view_as_complex": complex_view,
}
