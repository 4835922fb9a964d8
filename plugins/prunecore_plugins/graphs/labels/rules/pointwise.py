"""Operations that compute each element from the elements at its place: operands are tied where both vary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer, line


def pointwise(call: Call) -> Info | list[Info]:
    """Any operation with torch's tag `pointwise`, in place or not."""
    operands = [a for a in call.args if isinstance(a, Tensor)]
    operands += [a for a in call.kwargs.values() if isinstance(a, Tensor)]
    out = call.out
    if not isinstance(out, Tensor):
        return same_for_all(call, operands)
    info = combine(call, operands, out.shape)
    if call.func._schema.is_mutable:
        _written(call, info)
        return _into(call, info)
    return info


def same_for_all(call: Call, operands: list[Tensor]) -> list[Info]:
    outs = [t for t in call.out if isinstance(t, Tensor)]
    return [combine(call, operands, t.shape) for t in outs]


def combine(call: Call, operands: list[Tensor], shape: torch.Size) -> Info:
    """Tie operands that broadcast to `shape`; the result's labels."""
    infos = [call.info(t) for t in operands]
    labelled = [i for i in infos if i.layers]
    if len(labelled) == 1 and all(t.numel() == 1 or i.layers for t, i in zip(operands, infos, strict=True)):
        only = next(t for t, i in zip(operands, infos, strict=True) if i.layers)
        if only.shape == shape:
            return labelled[0] if all(i.leaf for i in infos) == labelled[0].leaf else Info(labelled[0].layers, False)
    leaf = all(i.leaf for i in infos)
    if not labelled:
        why = next((i.why for i in infos if not i.leaf), infos[0].why if infos else "a constant made in the forward")
        return Info((), leaf, why)
    rank = len(shape)
    layers = []
    axes = dict.fromkeys(y.axis + rank - t.dim() for t, i in zip(operands, infos, strict=True) for y in i.layers)
    for axis in axes:
        layers += _on_axis(call, axis, list(zip(operands, infos, strict=True)), shape)
    return Info(tuple(layers), leaf)


def _on_axis(call: Call, axis: int, operands: list[tuple[Tensor, Info]], shape: torch.Size) -> list[Layer]:
    """The layers that the result has on `axis`: those of the operands that are as long there, tied."""
    rank = len(shape)
    found: list[list[Layer]] = []
    missing: list[str] = []
    for tensor, info in operands:
        here = axis - rank + tensor.dim()
        layers = [y for y in info.layers if y.axis == here]
        if here < 0 or tensor.shape[here] != shape[axis]:
            call.drop(layers, "a single channel is spread over a dim")
        elif layers:
            found.append([y.aligned(rank) for y in layers])
        else:
            missing.append(info.why)
    if not found:
        return []
    if missing and shape[axis] > 1:
        for layers in found:
            call.drop(layers, f"tied to {missing[0]}")
    if len(found) > 1 and any(len(layers) > 1 for layers in found):
        for layers in found:
            call.drop(layers, "a dim that merges two cut dims")
        return []
    result = found[0]
    for layers in found[1:]:
        call.tie(result[0].labels, layers[0].labels, "tied to positions without channels")
        if layers[0].labels.size < result[0].labels.size:
            result = layers
    return result


def _written(call: Call, info: Info) -> None:
    """What is written into a tensor that has no labels there is frozen: other views of it do not know them."""
    target = call.info(call.out)
    axes = {y.axis for y in target.layers}
    call.drop([y for y in info.layers if y.axis not in axes], "written into a tensor without channels")


def _into(call: Call, info: Info) -> Info:
    """A tensor written in place keeps its own labels (its views share them)."""
    target = call.info(call.out)
    return Info(target.layers, info.leaf, target.why if target.leaf == info.leaf else info.why)


def same(call: Call) -> Any:
    """The result has the channels of the first argument (clone, to, zeros_like, dropout …)."""
    return call.info(call.args[0])


def copy(call: Call) -> Info:
    """`copy_`: as pointwise, with the source's values."""
    target, source = call.args[0], call.args[1]
    info = combine(call, [target, source], target.shape)
    _written(call, info)
    return _into(call, info)


def constant(call: Call) -> Info:
    """Tensors made from nothing."""
    return Info()


def uniform(call: Call) -> Info:
    """One value everywhere: a dim whose size follows a width carries channels, which matter only by their number.

    Zero states that a recurrent module makes follow its hidden width, a known attribute.
    """
    out = call.out
    if isinstance(call.trace.current, (torch.nn.RNNBase, torch.nn.RNNCellBase)) and isinstance(out, Tensor):
        return _state(call, out)
    given = call.trace.given.shape or ()
    found = ((dim, call.sized(number)) for dim, number in enumerate(given))
    return Info(tuple(Layer(d, line(labels, d, out.dim())) for d, labels in found if labels is not None))


def _state(call: Call, out: Tensor) -> Info:
    """Fresh labels along the last dim, for each layer and direction their own, equally many."""
    if out.dim() < 2:
        return Info()
    rows = out.shape[0] if out.dim() == 3 else 1
    labels = call.trace.builder.fresh(rows * out.shape[-1]).reshape(rows, -1)
    call.trace.builder.equal_parts(labels, call.reason("one hidden width for all layers and directions"))
    shape = (rows, 1, out.shape[-1]) if out.dim() == 3 else (1, out.shape[-1])
    return Info((Layer(out.dim() - 1, labels.reshape(shape)),))


def unchanged(call: Call) -> Info:
    """In-place fills: the tensor keeps its labels."""
    return call.info(call.args[0])


def nothing(call: Call) -> None:
    """No tensor comes out."""


# element by element, yet without torch's tag
_UNTAGGED = (
    "hardswish", "_prelu_kernel", "rrelu_with_noise", "log_sigmoid_forward", "floor_divide", "complex", "polar", "real",
    "imag", "isnan", "bucketize", "prelu", "log_sigmoid", "logit", "bitwise_not",
    "conj_physical", "copysign", "xlogy", "nextafter", "heaviside", "ldexp", "hypot", "frac",
)  # fmt: skip

RULES = {
    **{f"aten.{name}": pointwise for name in _UNTAGGED},
    **dict.fromkeys(
        (
            "aten.clone", "aten._to_copy", "aten.detach", "aten.alias", "aten.lift_fresh", "aten.contiguous",
            "aten.lift", "aten.detach_", "aten.zeros_like", "aten.ones_like", "aten.full_like", "aten.empty_like",
            "aten.rand_like", "aten.randn_like", "aten.bernoulli", "aten.native_dropout", "aten._conj",
            "aten.resolve_conj", "aten.resolve_neg", "aten.nan_to_num", "aten.fake_quantize_per_tensor_affine",
        ),
        same,
    ),
    **dict.fromkeys(("aten.fill_", "aten.zero_", "aten.bernoulli_", "aten.normal_", "aten.uniform_"), unchanged),
    **dict.fromkeys(
        (
            "aten.arange", "aten.linspace", "aten.eye", "aten.rand", "aten.randn", "aten.randint", "aten.randperm",
            "aten.scalar_tensor", "aten.empty_strided", "aten.new_empty_strided", "aten.tril_indices",
        ),
        constant,
    ),
    **dict.fromkeys(
        (
            "aten.empty", "aten.zeros", "aten.ones", "aten.full", "aten.new_zeros", "aten.new_ones", "aten.new_full",
            "aten.new_empty",
        ),
        uniform,
    ),
    "aten.copy_": copy,
    "aten._local_scalar_dense": nothing,
}  # fmt: skip
