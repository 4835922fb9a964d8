"""Shape operations that choose, repeat or join elements: slice, split, cat, pad, flip, roll, repeat, pixel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunecore.types import Indices
from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer
from prunecore_plugins.graphs.labels.rules.views import permuted, reshape, spread


def _cut(labels: Indices, dim: int, start: int, end: int, step: int = 1) -> Indices:
    if labels.shape[dim] == 1:
        return labels
    return labels[(slice(None),) * dim + (slice(start, end, step),)]


def _rows(labels: Indices, dim: int, size: int) -> Indices:
    """`labels` cut along `dim` into pieces of `size`, shape `(pieces * whatever it is ragged over, size)`."""
    return np.moveaxis(labels, dim, -1).reshape(-1, size)


def slicing(call: Call) -> Info:
    """`x[start:end:step]` along a dim. Along the channels only equal pieces can be followed."""
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dim", 0) % source.dim()
    size, step = source.shape[dim], call.arg(4, "step", 1)
    start, end, _ = slice(call.arg(2, "start"), call.arg(3, "end"), step).indices(size)
    if (start, end, step) == (0, size, 1):
        return info
    given = next((b[1:] for b in call.trace.given.bounds if b[0] == dim), None)
    if given is not None and step == 1:
        return _sliced(call, info, dim, (start, end), given)
    if not info.layers:
        return info
    layers = []
    for layer in info.layers:
        if layer.axis == dim and size > 1 and not _follows(call, layer, (start, end, step), size):
            call.drop([layer], f"slice {start}:{end}:{step} of {size} channels")
            continue
        layers.append(Layer(layer.axis, _cut(layer.labels, dim, start, end, step)))
    return Info(tuple(layers), info.leaf, info.why)


def _sliced(call: Call, info: Info, dim: int, piece: tuple[int, int], given: tuple[Any, Any]) -> Info:
    """A slice whose ends the code gives: what lies before (behind, where it is negative) each is as many as it says."""
    size = call.args[0].shape[dim]
    layers = []
    for layer in info.layers:
        if layer.axis == dim and layer.varies(dim):
            for place, number in zip(piece, given, strict=True):
                if number is not None and 0 < place < size:
                    behind = number < 0
                    part = _cut(layer.labels, dim, place, size) if behind else _cut(layer.labels, dim, 0, place)
                    _counted_apart(call, part, dim, "rows of a slice")
                    call.use(-number if behind else number, Layer(dim, part), f"a slice at {int(number)}")
            layer = Layer(dim, _cut(layer.labels, dim, *piece))
            if not layer.labels.shape[dim]:
                continue
        else:
            layer = Layer(layer.axis, _cut(layer.labels, dim, *piece))
        layers.append(layer)
    if not any(y.axis == dim and y.varies(dim) for y in info.layers):
        for number in given:
            if number is not None:
                call.fix(number)
    return Info(tuple(layers), info.leaf, info.why)


def _counted_apart(call: Call, part: Indices, dim: int, reason: str) -> None:
    """A part that has a number of its own: its channels are a group, and all its lines keep equally many."""
    call.trace.builder.apart(part)
    call.trace.builder.equal_parts(_rows(part, dim, part.shape[dim]), call.reason(reason))


def _follows(call: Call, layer: Layer, piece: tuple[int, int, int], size: int) -> bool:
    """Make the pieces of a slice equal (tie blocks of `step`); False where there is no telling."""
    start, end, step = piece
    length = end - start
    if layer.labels.shape[layer.axis] == 1:
        return False
    if step > 1:
        if size % step or start >= step or end <= size - step:
            return False
        rows = np.moveaxis(layer.labels, layer.axis, -1).reshape(-1, step)
        call.tie(rows[:, :1], rows, "a strided slice of channels")
        return True
    if length <= 0 or size % length or start % length:
        return False
    reason = call.reason(f"slices of {length} of {size} channels")
    call.trace.builder.equal_parts(_rows(layer.labels, layer.axis, length), reason)
    return True


def select(call: Call) -> Info:
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dim") % source.dim()
    index = call.arg(2, "index") % source.shape[dim]
    return Info(tuple(_selected(call, info, dim, index)), info.leaf, info.why)


def _selected(call: Call, info: Info, dim: int, index: int) -> list[Layer]:
    layers = []
    for layer in info.layers:
        if layer.axis == dim:
            call.drop([layer], "one channel is picked by its number")
            continue
        labels = _cut(layer.labels, dim, index, index + 1).squeeze(dim)
        layers.append(Layer(layer.axis - (layer.axis > dim), labels))
    return layers


def unbind(call: Call) -> list[Info]:
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dim", 0) % source.dim()
    call.drop([y for y in info.layers if y.axis == dim], "channels are taken apart one by one")
    kept = Info(tuple(y for y in info.layers if y.axis != dim), info.leaf, info.why)
    return [Info(tuple(_selected(call, kept, dim, i)), info.leaf, info.why) for i in range(source.shape[dim])]


def split(call: Call) -> list[Info]:
    """split, chunk and their unsafe forms. Pieces of one number stay equal; where the code gives each, each follows its own."""
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(2, "dim", 0) % source.dim()
    sizes = [t.shape[dim] for t in call.out]
    ends = np.cumsum(sizes).tolist()
    given = call.trace.given.sizes
    cut = [y for y in info.layers if y.axis == dim and y.varies(dim) and len(sizes) > 1]
    for layer in cut:
        pieces = [Layer(dim, _cut(layer.labels, dim, e - s, e)) for s, e in zip(sizes, ends, strict=True)]
        _pieces(call, pieces, sizes, given)
    for number in given if isinstance(given, tuple) and not cut else ():
        call.fix(number)
    return [
        Info(tuple(Layer(y.axis, _cut(y.labels, dim, e - s, e)) for y in info.layers), info.leaf, info.why)
        for s, e in zip(sizes, ends, strict=True)
    ]


def _pieces(call: Call, pieces: list[Layer], sizes: list[int], given: int | tuple[int, ...] | None) -> None:
    dim, numbers = pieces[0].axis, given if isinstance(given, tuple) and len(given) == len(sizes) else ()
    reason = f"split into pieces of {', '.join(map(str, dict.fromkeys(sizes)))}"
    for number, piece in zip(numbers, pieces, strict=False):
        _counted_apart(call, piece.labels, dim, reason)
        call.use(number, piece, reason)
    if numbers:
        return
    if len(set(sizes)) > 1:
        call.drop(pieces, "pieces of unequal size")
        return
    rows = np.concatenate([_rows(p.labels, dim, s) for p, s in zip(pieces, sizes, strict=True)])
    call.trace.builder.equal_parts(rows, call.reason(reason))
    if isinstance(given, int):
        call.use(given, pieces[0], reason)


def cat(call: Call) -> Info:
    tensors = [t for t in call.args[0] if t.dim() == call.out.dim()]
    return _joined(call, [call.info(t) for t in tensors], [tuple(t.shape) for t in tensors], call.arg(1, "dim", 0))


def stack(call: Call) -> Info:
    dim = call.arg(1, "dim", 0) % call.out.dim()
    infos = [call.info(t) for t in call.args[0]]
    spread = [
        Info(tuple(Layer(y.axis + (y.axis >= dim), np.expand_dims(y.labels, dim)) for y in i.layers), i.leaf, i.why)
        for i in infos
    ]
    shapes = [(*t.shape[:dim], 1, *t.shape[dim:]) for t in call.args[0]]
    return _joined(call, spread, shapes, dim)


def _joined(call: Call, infos: list[Info], shapes: Sequence[tuple[int, ...]], dim: int) -> Info:
    rank = call.out.dim()
    dim %= rank
    leaf = all(i.leaf for i in infos)
    if not any(i.layers for i in infos):
        return Info((), leaf, next((i.why for i in infos if not i.leaf), Info.why))
    layers = []
    for axis in dict.fromkeys(y.axis for i in infos for y in i.layers):
        found = [[y for y in i.layers if y.axis == axis] for i in infos]
        if any(len(f) > 1 for f in found):
            for each in found:
                call.drop(each, "a dim that merges two cut dims")
        elif axis == dim:
            layers.append(Layer(axis, _end_to_end(found, shapes, dim)))
        elif all(found):
            layers.append(_side_by_side(call, [f[0] for f in found], dim))
        else:
            why = next(i.why for i, f in zip(infos, found, strict=True) if not f)
            for each in found:
                call.drop(each, f"joined with {why}")
    return Info(tuple(layers), leaf)


def _end_to_end(found: list[list[Layer]], shapes: Sequence[tuple[int, ...]], dim: int) -> Indices:
    rank = len(shapes[0])
    wide = [1] * rank
    for each in found:
        for d in range(rank):
            if each and d != dim:
                wide[d] = max(wide[d], each[0].labels.shape[d])
    pieces = []
    for each, shape in zip(found, shapes, strict=True):
        target = (*wide[:dim], shape[dim], *wide[dim + 1 :])
        pieces.append(np.broadcast_to(each[0].labels if each else np.int64(-1), target))
    return np.concatenate(pieces, axis=dim)


def _side_by_side(call: Call, found: list[Layer], dim: int) -> Layer:
    head = call.mix(found[0], [dim])
    for other in found[1:]:
        call.tie(head.labels, call.mix(other, [dim]).labels, "joined with positions without channels")
    return head


def pad(call: Call) -> Info:
    """`constant_pad_nd`: padded channels always stay."""
    source, info, amounts = call.args[0], call.info(call.args[0]), list(call.args[1])
    rank = source.dim()
    widths = {rank - 1 - i: (amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)}
    layers = []
    for layer in info.layers:
        before, after = widths.get(layer.axis, (0, 0))
        if min(before, after) < 0:
            call.drop([layer], "channels are cropped by number")
            continue
        layer = call.mix(layer, [d for d, width in widths.items() if width != (0, 0)])
        if before or after:
            shape = list(layer.labels.shape)
            shape[layer.axis] = source.shape[layer.axis]
            width = [(before, after) if d == layer.axis else (0, 0) for d in range(rank)]
            layer = Layer(layer.axis, np.pad(np.broadcast_to(layer.labels, shape), width, constant_values=-1))
        layers.append(layer)
    return Info(tuple(layers), info.leaf, info.why)


def flip(call: Call) -> Info:
    info, rank = call.info(call.args[0]), call.args[0].dim()
    dims = [d % rank for d in call.arg(1, "dims")]
    layers = tuple(Layer(y.axis, np.flip(y.labels, tuple(d for d in dims if y.varies(d)))) for y in info.layers)
    return Info(layers, info.leaf, info.why)


def roll(call: Call) -> Info:
    source, info = call.args[0], call.info(call.args[0])
    shifts, dims = list(call.arg(1, "shifts")), [d % source.dim() for d in call.arg(2, "dims", ())]
    if not dims:
        call.drop(info.layers, "a roll over all dims")
        return Info((), info.leaf, info.why)
    call.drop([y for y in info.layers if y.axis in dims], "channels are rolled by a fixed number")
    kept = [y for y in info.layers if y.axis not in dims]
    return Info(tuple(Layer(y.axis, np.roll(y.labels, shifts, dims)) for y in kept), info.leaf, info.why)


def repeat(call: Call) -> Info:
    source, info, times = call.args[0], call.info(call.args[0]), list(call.arg(1, "repeats"))
    rank = len(times)
    layers = []
    for layer in (y.aligned(rank) for y in info.layers):
        size = source.shape[layer.axis - rank + source.dim()]
        if times[layer.axis] > 1 and size == 1:
            call.drop([layer], "a single channel is spread over a dim")
            layers += spread(call, source, call.trace.given.shape, [layer.axis])
            continue
        tiles = [t if layer.varies(d) else 1 for d, t in enumerate(times)]
        layers.append(Layer(layer.axis, np.tile(layer.labels, tiles)))
    return Info(tuple(layers), info.leaf, info.why)


def pixel_shuffle(call: Call) -> Info:
    """The r*r channels that become one channel's pixels go together."""
    factor = int(call.arg(1, "upscale_factor")) ** 2
    rank = call.args[0].dim()
    axis, info = rank - 3, call.info(call.args[0])
    call.drop(call.others(info, [axis]), "pixels are rearranged")
    labels = call.channels(info, axis, call.args[0].shape[axis])
    rows = labels.reshape(-1, factor)
    call.tie(rows[:, :1], rows, "pixel shuffle")
    return Info((Layer(axis, rows[:, 0].reshape(-1, 1, 1).reshape((1,) * axis + (-1, 1, 1))),), info.leaf, info.why)


def pixel_unshuffle(call: Call) -> Info:
    factor = int(call.arg(1, "downscale_factor")) ** 2
    axis, info = call.args[0].dim() - 3, call.info(call.args[0])
    call.drop(call.others(info, [axis]), "pixels are rearranged")
    labels = np.repeat(call.channels(info, axis, call.args[0].shape[axis]), factor)
    return Info((Layer(axis, labels.reshape((1,) * axis + (-1, 1, 1))),), info.leaf, info.why)


def channel_shuffle(call: Call) -> Info:
    """`(g, c / g) -> (c / g, g)`: position by position the groups lose the same channels."""
    source, info, groups = call.args[0], call.info(call.args[0]), int(call.arg(1, "groups"))
    old = tuple(source.shape)
    apart = (old[0], groups, old[1] // groups, *old[2:])
    split_info = Info(tuple(reshape(call, info, old, apart)), info.leaf, info.why)
    swapped = permuted(split_info, [0, 2, 1, *range(3, len(apart))])
    between = (old[0], old[1] // groups, groups, *old[2:])
    return Info(tuple(reshape(call, swapped, between, old)), info.leaf, info.why)


def unfold(call: Call) -> Info:
    """`Tensor.unfold`: windows along one dim, which must not be a channel dim."""
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dimension") % source.dim()
    layers = call.mixed(info, [dim], "windows over channels")
    return Info(tuple(Layer(y.axis, y.labels[..., None]) for y in layers), info.leaf, info.why)


def im2col(call: Call) -> Info:
    """`F.unfold`: every channel becomes kernel-size many."""
    source, info = call.args[0], call.info(call.args[0])
    axis = source.dim() - 3
    factor = call.out.shape[axis] // source.shape[axis]
    call.drop(call.others(info, [axis]), "windows over pixels")
    labels = np.repeat(call.channels(info, axis, source.shape[axis]), factor)
    return Info((Layer(axis, labels.reshape((1,) * axis + (-1, 1))),), info.leaf, info.why)


def col2im(call: Call) -> Info:
    source, info = call.args[0], call.info(call.args[0])
    axis = source.dim() - 2
    size = source.shape[axis]
    call.drop(call.others(info, [axis]), "windows over pixels")
    rows = call.channels(info, axis, size).reshape(call.out.shape[axis], -1)
    call.tie(rows[:, :1], rows, "the window of a channel")
    return Info((Layer(axis, rows[:, 0].reshape((1,) * axis + (-1, 1, 1))),), info.leaf, info.why)


def glu(call: Call) -> Info:
    """`a * sigmoid(b)` of the two halves of a dim."""
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dim", -1) % source.dim()
    half = source.shape[dim] // 2
    layers = []
    for layer in info.layers:
        if layer.axis == dim:
            a, b = (_cut(layer.labels, dim, start, start + half) for start in (0, half))
            call.tie(a, b, "gated by a position without a channel")
            layer = Layer(dim, a)
        layers.append(layer)
    return Info(tuple(call.mix(y, [dim]) for y in layers), info.leaf, info.why)


RULES = {
    "aten.slice": slicing,
    "aten.select": select,
    "aten.unbind": unbind,
    **dict.fromkeys(
        (
            "aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes", "aten.chunk",
            "aten.unsafe_chunk",
        ),
        split,
    ),
    "aten.cat": cat,
    "aten.stack": stack,
    "aten.constant_pad_nd": pad,
    "aten.flip": flip,
    "aten.roll": roll,
    "aten.repeat": repeat,
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.channel_shuffle": channel_shuffle,
    "aten.native_channel_shuffle": channel_shuffle,
    "aten.glu": glu,
    "aten.unfold": unfold,
    "aten.im2col": im2col,
    "aten.col2im": col2im,
}  # fmt: skip
