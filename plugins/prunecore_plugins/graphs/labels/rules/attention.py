"""Fused attention: query and key are contracted, values pass through."""

from __future__ import annotations

from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call, size_of
from prunecore_plugins.graphs.labels.layers import Info, Layer


def attention(call: Call) -> list[Info]:
    """`_scaled_dot_product_*(query, key, value, …)`, shapes `(…, heads, tokens, width)`.

    Where the scale is left to the operation it follows the width of the heads, so query and key keep theirs.
    """
    query, key, value = call.args[:3]
    q, k, v = (call.info(t) for t in (query, key, value))
    rank = query.dim()
    wide, long = rank - 1, rank - 2
    call.drop([y for i in (q, k, v) for y in i.layers if y.axis == long], "tokens with channels")
    for info in (q, k):
        for layer in info.layers:
            if layer.axis == wide:
                call.freeze(layer.labels, "the scale of attention follows the width of a head")
    heads = [y for i in (q, k, v) for y in i.layers if y.axis < long]
    call.drop(heads, "whole heads")
    mask = call.kwargs.get("attn_mask", call.args[3] if len(call.args) > 3 else None)
    if isinstance(mask, Tensor):
        call.drop(call.info(mask).layers, "an attention mask")
    layers = [call.mix(y, [long]) for y in v.layers if y.axis == wide]
    _cost(call, query, value, layers)
    found = Info(tuple(layers), q.leaf and k.leaf and v.leaf, call.reason("attention without channels"))
    return [found] + [Info()] * (len(call.out) - 1 if isinstance(call.out, tuple) else 0)


def _cost(call: Call, query: Tensor, value: Tensor, layers: list[Layer]) -> None:
    rank = query.dim()
    pairs = size_of(query, range(rank - 1)) * value.shape[-2]
    call.cost(pairs, query.shape[-1])
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
