"""Fused attention: query and key are contracted, values pass through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from prunecore.types import Indices
from prunecore_plugins.graphs.labels.call import Call, size_of
from prunecore_plugins.graphs.labels.layers import Info, Layer, counted


def attention(call: Call) -> list[Info]:
    """`_scaled_dot_product_*(query, key, value, …)`, shapes `(…, heads, tokens, width)`.

    Where the scale is left to the operation it follows the width of the heads: see `Frontier`.
    """
    query, key, value = call.args[:3]
    q, k, v = (call.info(t) for t in (query, key, value))
    rank = query.dim()
    wide, long = rank - 1, rank - 2
    call.drop([y for i in (q, k, v) for y in i.layers if y.axis == long], "tokens with channels")
    groups = query.shape[rank - 3] // key.shape[rank - 3] if rank > 3 else 1
    k, v = (_shared(i, groups, rank - 3) for i in (k, v))
    _contract(call, (query, q), k, wide)
    heads = [[y for y in i.layers if y.axis == rank - 3] for i in (q, k, v)]
    call.drop([y for i in (q, k, v) for y in i.layers if y.axis < rank - 3], "attention apart for every channel")
    layers = [call.mix(y, [long]) for y in v.layers if y.axis == wide]
    if all(len(h) == 1 for h in heads):
        whole = [call.mix(h[0], [long, wide]) for h in heads]
        for other in whole[1:]:
            call.tie(whole[0].labels, other.labels, "heads of query, key and value")
        layers.append(whole[0])
    else:
        call.drop([y for h in heads for y in h], "heads with channels on one side only")
    mask = call.kwargs.get("attn_mask", call.args[3] if len(call.args) > 3 else None)
    if isinstance(mask, Tensor):
        _mask(call, mask, [y for y in layers if y.axis == rank - 3], rank)
    _cost(call, query, value, q, layers)
    found = Info(tuple(layers), q.leaf and k.leaf and v.leaf, call.reason("attention without channels"))
    return [found] + [Info()] * (len(call.out) - 1 if isinstance(call.out, tuple) else 0)


def _mask(call: Call, mask: Tensor, heads: list[Layer], rank: int) -> None:
    """A mask, or a bias, that is another for every head has their channels."""
    axis = rank - 3
    info = call.info(mask)
    mine = [y.aligned(rank) for y in info.layers if y.axis + rank - mask.dim() == axis]
    call.drop([y for y in info.layers if y.axis + rank - mask.dim() != axis], "an attention mask")
    if len(mine) == len(heads) == 1:
        call.tie(heads[0].labels, call.mix(mine[0], [rank - 2, rank - 1]).labels, "a bias of every head")
    else:
        call.drop(mine, "an attention mask")
        if mask.dim() > 2 and mask.shape[-3] > 1:
            call.drop(heads, "an attention mask without channels")


def _shared(info: Info, groups: int, axis: int) -> Info:
    """Grouped queries: a key or value head stands for `groups` heads of the query."""
    if groups == 1:
        return info
    layers = [Layer(y.axis, np.repeat(y.labels, groups, axis) if y.varies(axis) else y.labels) for y in info.layers]
    return Info(tuple(layers), info.leaf, info.why)


def _contract(call: Call, query: tuple[Tensor, Info], k_info: Info, wide: int) -> None:
    """The width that query and key are multiplied over."""
    q_tensor, q_info = query
    left, right = (call.take(i, wide) for i in (q_info, k_info))
    if left is not None and right is not None:
        left, right = (call.mix(y, [wide - 1]) for y in (left, right))
        call.tie(left.labels, right.labels, "multiplied with positions without channels")
    elif q_tensor.shape[wide] > 1:
        call.drop([y for y in (left, right) if y is not None], "multiplied with positions without channels")


def _cost(call: Call, query: Tensor, value: Tensor, q_info: Info, layers: list[Layer]) -> None:
    """Scores and weighted sums; whole heads and the width of heads are factors."""
    rank = query.dim()

    def factor(found: Sequence[Layer], axis: int, size: int) -> Indices | int:
        lines = [counted(y) for y in found if y.axis == axis]
        return lines[0] if lines else size

    heads = factor(layers, rank - 3, query.shape[rank - 3]) if rank > 3 else 1
    pairs = size_of(query, [d for d in range(rank - 1) if rank == 3 or d != rank - 3]) * value.shape[-2]
    call.cost(pairs, heads, factor(q_info.layers, rank - 1, query.shape[-1]))
    call.cost(pairs, heads, factor(layers, rank - 1, value.shape[-1]))


def fused(call: Call) -> Info | list[Info]:
    found = attention(call)
    return found[0] if isinstance(call.out, Tensor) else found


RULES = {
    f"aten._scaled_dot_product_{name}": fused
    for name in (
        "flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention", "fused_attention_overrideable",
    )
}  # fmt: skip
