"""Matrix products: contracted dims are tied, the others are carried on."""

from __future__ import annotations

from torch import Tensor

from prunecore.types import Indices
from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer, counted
from prunecore_plugins.graphs.labels.rules.pointwise import combine


def _lifted(info: Info, dims: tuple[int | None, int | None, int | None], rank: int) -> list[Layer]:
    """Layers of an operand laid out as `(batch, rows, columns)`; `dims[i]`: which of its dims that is."""
    layers = []
    for y in info.layers:
        shape = tuple(1 if d is None else y.labels.shape[d] for d in dims)
        layers.append(Layer(dims.index(y.axis), y.labels.reshape(shape)))
    return layers


def _contracted(call: Call, layers: list[Layer], info: Info, axis: int, free: int) -> Layer | None:
    lifted = Info(tuple(layers), info.leaf, info.why)
    taken = call.take(lifted, axis)
    return None if taken is None else call.mix(taken, [free])


def _left_over(call: Call, layers: list[Layer], taken: Layer | None, axis: int) -> list[Layer]:
    """Layers on free dims, independent of the contracted one; one that was turned to the contracted dim is spent."""
    if taken is not None and all(y.axis != axis for y in layers):
        layers = [y for y in layers if y.labels.shape[axis] == 1]
    return [call.mix(y, [axis]) for y in layers if y.axis != axis]


def product(
    call: Call, left: tuple[Tensor, list[Layer]], right: tuple[Tensor, list[Layer]], sizes: tuple[int, ...]
) -> Info:
    """`(b, n, k) @ (b, k, m)`; sizes: b, n, k, m. Returns the labels of `(b, n, m)`."""
    (a, a_layers), (b, b_layers) = left, right
    a_info, b_info = call.info(a), call.info(b)
    inner_a, inner_b = _contracted(call, a_layers, a_info, 2, 1), _contracted(call, b_layers, b_info, 1, 2)
    inner: Indices | int = sizes[2]
    if inner_a is not None and inner_b is not None:
        call.tie(inner_a.labels[:, 0, :], inner_b.labels[:, :, 0], "multiplied with positions without channels")
        inner = inner_b.labels[0, :, 0]
    elif inner_a is not None and sizes[2] > 1:
        call.drop([inner_a], f"multiplied with {b_info.why}")
    elif inner_b is not None and sizes[2] > 1:
        call.drop([inner_b], f"multiplied with {a_info.why}")
    rows, columns = _left_over(call, a_layers, inner_a, 2), _left_over(call, b_layers, inner_b, 1)
    if b_info.leaf and not a_info.leaf:
        _roles(call, b_info, inner_b, columns, 2)
    elif a_info.leaf and not b_info.leaf:
        _roles(call, a_info, inner_a, rows, 1)
    layers = (
        [y for y in rows if y.axis == 1] + [y for y in columns if y.axis == 2] + _batches(call, rows, columns, sizes[0])
    )
    factors = [
        next((y.labels[0].ravel() for y in layers if y.axis == d and y.labels[0].size > 1), sizes[s])
        for d, s in ((1, 1), (2, 3))
    ]
    batch = [counted(y) for y in layers if y.axis == 0 and y.varies(0)]
    call.cost(1 if batch else sizes[0], *_apart(call, batch), factors[0], inner, factors[1])
    return Info(tuple(layers), a_info.leaf and b_info.leaf, call.reason("a product without channels"))


def _apart(call: Call, batch: list[Indices]) -> list[Indices | int]:
    """A batch dim with channels as factors of a cost: the network's own batch is a number, heads are not."""
    if not batch:
        return []
    rows = batch[0].reshape(call.trace.batch, -1) if batch[0].size % call.trace.batch == 0 else batch[0][None]
    return [len(rows), rows[0]] if (rows == rows[:1]).all() else [batch[0]]


def _roles(call: Call, info: Info, inner: Layer | None, free: list[Layer], axis: int) -> None:
    if inner is not None:
        call.role(info, inner.labels, "consumer")
    for layer in free:
        if layer.axis == axis:
            call.role(info, layer.labels, "producer")


def _batches(call: Call, rows: list[Layer], columns: list[Layer], batch: int) -> list[Layer]:
    left, right = [y for y in rows if y.axis == 0], [y for y in columns if y.axis == 0]
    if len(left) == len(right) == 1:
        call.tie(left[0].labels, right[0].labels, "a batch dim with channels")
        return left
    if batch > 1:
        call.drop(left + right, "a batch dim with channels on one side only")
    return []


def mm(call: Call) -> Info:
    return _matrix(call, call.args[0], call.args[1])


def _matrix(call: Call, a: Tensor, b: Tensor) -> Info:
    found = product(
        call,
        (a, _lifted(call.info(a), (None, 0, 1), 2)),
        (b, _lifted(call.info(b), (None, 0, 1), 2)),
        (1, a.shape[0], a.shape[1], b.shape[1]),
    )
    return Info(tuple(Layer(y.axis - 1, y.labels[0]) for y in found.layers if y.axis), found.leaf, found.why)


def bmm(call: Call) -> Info:
    return _batched(call, call.args[0], call.args[1])


def _batched(call: Call, a: Tensor, b: Tensor) -> Info:
    left, right = list(call.info(a).layers), list(call.info(b).layers)
    return product(call, (a, left), (b, right), (a.shape[0], a.shape[1], a.shape[2], b.shape[2]))


def mv(call: Call) -> Info:
    a, b = call.args[-2:]
    found = product(
        call,
        (a, _lifted(call.info(a), (None, 0, 1), 2)),
        (b, _lifted(call.info(b), (None, 0, None), 1)),
        (1, a.shape[0], a.shape[1], 1),
    )
    return Info(tuple(Layer(0, y.labels[0, :, 0]) for y in found.layers if y.axis == 1), found.leaf, found.why)


def dot(call: Call) -> Info:
    combine(call, list(call.args[:2]), call.args[0].shape)
    return Info((), all(call.info(t).leaf for t in call.args[:2]))


def addmm(call: Call) -> Info:
    return _plus(call, _matrix(call, call.args[1], call.args[2]))


def baddbmm(call: Call) -> Info:
    return _plus(call, _batched(call, call.args[1], call.args[2]))


def _plus(call: Call, info: Info) -> Info:
    """The product plus the first argument."""
    bias = call.args[0]
    b_info = call.info(bias)
    for layer in b_info.layers:
        call.role(b_info, layer.labels, "bias")
    holder = call.trace.shadow(call.out, info)
    return combine(call, [holder, bias], call.out.shape)


RULES = {
    "aten.mm": mm,
    "aten.bmm": bmm,
    "aten.mv": mv,
    "aten.dot": dot,
    "aten.vdot": dot,
    "aten.addmm": addmm,
    "aten.baddbmm": baddbmm,
}
