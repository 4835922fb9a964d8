"""Fused attention: query and key are contracted, values pass through."""

from __future__ import annotations

from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call, size_of
from prunecore_plugins.graphs.labels.layers import Info, Layer


def attention(call: Call) -> list[Info]:
    """`_scaled_dot_product_*(query, key, value, …)`, shapes `(…, heads, tokens, width)`.

    Where the scale is left to the operation it follows the width of the heads: see `Frontier`.
    """
    query, key, value = call.args[:3]
    q, k, v = (call.info(t) for t in (query, key, value))
    rank = query.dim()
    wide, long = rank - 1, rank - 2
    call.drop([y for i in (q, k, v) for y in i.layers if y.axis == long], "tokens with channels")
    _contract(call, (query, q), (key, k), wide)
    heads = [y for i in (q, k, v) for y in i.layers if y.axis < long]
    call.drop(heads, "whole heads")
    mask = call.kwargs.get("attn_mask", call.args[3] if len(call.args) > 3 else None)
    if isinstance(mask, Tensor):
        call.drop(call.info(mask).layers, "an attention mask")
    layers = [call.mix(y, [long]) for y in v.layers if y.axis == wide]
    _cost(call, query, value, layers)
    found = Info(tuple(layers), q.leaf and k.leaf and v.leaf, call.reason("attention without channels"))
    return [found] + [Info()] * (len(call.out) - 1 if isinstance(call.out, tuple) else 0)


def _contract(call: Call, query: tuple[Tensor, Info], key: tuple[Tensor, Info], wide: int) -> None:
    """The width that query and key are multiplied over."""
    (q_tensor, q_info), (_, k_info) = query, key
    left, right = (call.take(i, wide) for i in (q_info, k_info))
    if left is not None and right is not None:
        left, right = (call.mix(y, [wide - 1]) for y in (left, right))
        call.tie(left.labels, right.labels, "multiplied with positions without channels")
    elif q_tensor.shape[wide] > 1:
        call.drop([y for y in (left, right) if y is not None], "multiplied with positions without channels")


def _cost(call: Call, query: Tensor, value: Tensor, layers: list[Layer]) -> None:
    rank = query.dim()
    pairs = size_of(query, range(rank - 1)) * value.shape[-2]
    inner = [y.labels.reshape(-1, y.labels.shape[-1])[0] for y in call.info(query).layers if y.axis == rank - 1]
    call.cost(pairs, inner[0] if inner else query.shape[-1])
    widths = layers[0].labels.reshape(-1, layers[0].labels.shape[-1])[0] if layers else value.shape[-1]
    call.cost(pairs, widths)


def fused(call: Call) -> Info | list[Info]:
    found = attention(call)
    return found[0] if isinstance(call.out, Tensor) else found


RULES = {
    f"aten._scaled_dot_product_{name}": fused
    for name in (
        "flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention", "fused_attention_overrideable",
    )
}  # fmt: skip
