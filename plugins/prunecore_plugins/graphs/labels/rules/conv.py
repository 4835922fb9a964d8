"""Convolutions, plain, grouped, depthwise and transposed."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from prunecore.types import Indices
from prunecore_plugins.graphs.labels.call import Call, size_of
from prunecore_plugins.graphs.labels.layers import Info, Layer, line


def convolution(call: Call) -> Info:
    """`convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`."""
    x, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    x_info, w_info = call.info(x), call.info(weight)
    call.drop(call.others(x_info, [0, 1]), "positions are convolved")
    _hide_kernel(call, w_info)
    ins = call.channels(x_info, 1, x.shape[1])
    rows, columns = (call.channels(w_info, d, weight.shape[d]) for d in (0, 1))
    call.role(w_info, columns if transposed else rows, "producer")
    call.role(w_info, rows if transposed else columns, "consumer")
    why = f"tied to {x_info.why}"
    if groups == 1:
        out, into = (columns, rows) if transposed else (rows, columns)
        call.tie(ins, into, why)
        width: Indices | int = into
        produced: Indices | int = out
    elif transposed:
        out, width, produced = _grouped_transposed(call, ins, (rows, columns), groups=groups, why=why)
    else:
        out, width, produced = _grouped(call, ins, (rows, columns), groups=groups, why=why)
    places = size_of(x if transposed else call.out, [0, *range(2, x.dim())]) * size_of(weight, range(2, weight.dim()))
    call.cost(places, produced, width)
    _bias(call, bias, out)
    batch = [call.mix(y, range(1, x.dim())) for y in x_info.layers if y.axis == 0]
    leaf = x_info.leaf and w_info.leaf
    return Info((Layer(1, line(out, 1, x.dim())), *batch), leaf, call.reason("a place in the output"))


def _bias(call: Call, bias: Tensor | None, out: Indices) -> None:
    if bias is None or not bias.numel():
        return
    info = call.info(bias)
    labels = call.channels(info, 0, bias.shape[0])
    call.role(info, labels, "bias")
    call.tie(out, labels, "tied to a bias without channels")


def _hide_kernel(call: Call, info: Info) -> None:
    """Kernel dims are no channels."""
    kernel = [y for y in info.layers if y.axis >= 2]
    if info.leaf:
        call.trace.hidden += [y.labels for y in kernel]
    else:
        call.drop(kernel, "a kernel dim")


def _whole(call: Call, ins: Indices, outs: Indices, groups: int, why: str) -> None:
    """A whole convolution group, its inputs and its outputs, is one channel."""
    ins, outs = ins.reshape(groups, -1), outs.reshape(groups, -1)
    call.tie(ins[:, :1], ins, why)
    call.tie(ins[:, :1], outs, why)


def _attribute(call: Call, labels: Indices, divisor: int) -> None:
    module = call.trace.current
    if not isinstance(getattr(module, "groups", None), int):
        if call.trace.given.groups is not None:
            call.trace.ledger.use(call.trace.given.groups, labels[::divisor], call.reason("convolution groups"))
    elif (labels >= 0).any():
        call.trace.builder.attribute(call.module, "groups", labels, divisor)


def _grouped(
    call: Call, ins: Indices, weight: tuple[Indices, Indices], *, groups: int, why: str
) -> tuple[Indices, Indices | int, Indices | int]:
    """Output labels, MAC factors of the inputs of one group and of the outputs. Weight `(out, in / groups, …)`."""
    outs, columns = weight
    if groups >= columns.size:
        _whole(call, ins, outs, groups, why)
        call.trace.hidden.append(columns[columns >= 0])
        _attribute(call, outs, outs.size // groups)
        return outs, columns.size, outs
    call.tie(ins.reshape(groups, -1), columns[None], why)
    reason = call.reason(f"{groups} convolution groups")
    call.trace.builder.equal_parts(outs.reshape(groups, -1), reason)
    return outs, columns, outs


def _grouped_transposed(
    call: Call, ins: Indices, weight: tuple[Indices, Indices], *, groups: int, why: str
) -> tuple[Indices, Indices | int, Indices | int]:
    """As `_grouped`. Weight `(in, out / groups, …)`."""
    rows, columns = weight
    call.tie(ins, rows, why)
    if groups >= rows.size // groups:
        _whole(call, ins, rows, groups, why)
        call.trace.hidden.append(columns[columns >= 0])
        _attribute(call, rows, rows.size // groups)
        return np.repeat(rows.reshape(groups, -1)[:, 0], columns.size), columns.size, rows
    reason = call.reason(f"{groups} convolution groups")
    call.trace.builder.equal_parts(rows.reshape(groups, -1), reason)
    return np.tile(columns, groups), columns, rows


def deformable(call: Call) -> Info:
    """torchvision's `deform_conv2d(input, weight, offset, mask, bias, …, groups, offset_groups, use_mask)`."""
    x, weight, offset, mask, bias = call.args[:5]
    groups, offset_groups = int(call.args[11]), int(call.args[12])
    for tensor in (offset, mask):
        call.drop(call.info(tensor).layers, "offsets of a deformable convolution")
    if groups > 1 or offset_groups > 1:
        for tensor in (x, weight, bias):
            call.drop(call.info(tensor).layers, "groups of a deformable convolution")
        return Info((), leaf=False, why=call.reason("a grouped deformable convolution"))
    x_info, w_info = call.info(x), call.info(weight)
    call.drop(call.others(x_info, [1]), "positions are convolved")
    _hide_kernel(call, w_info)
    rows, columns = (call.channels(w_info, d, weight.shape[d]) for d in (0, 1))
    call.role(w_info, rows, "producer")
    call.role(w_info, columns, "consumer")
    call.tie(call.channels(x_info, 1, x.shape[1]), columns, f"tied to {x_info.why}")
    _bias(call, bias, rows)
    return Info((Layer(1, line(rows, 1, x.dim())),), leaf=False, why=call.reason("a place in the output"))


RULES = {
    "torchvision.deform_conv2d": deformable,
    "aten.convolution": convolution,
    "aten._convolution": convolution,
    "aten.convolution_overrideable": convolution,
}
