"""The numbers that known torch layers keep in Python, read off the shapes of their tensors.

`layer_attributes` looks at the live module, so subclasses (timm's `BatchNormAct2d`, `Conv2dSame`, `StdConv2d`) are covered
and keep whatever else they carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import nn
from torch.nn.modules import batchnorm, conv, instancenorm, rnn

from prunecore.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]
Number = int | tuple[int, ...]


def layer_attributes(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    """Attributes of `module` that follow from the new `shapes` of its own tensors (`{"weight": (8, 4, 3, 3)}`).

    groups: the new group count of a convolution, None = unchanged. Only attributes that the module has are returned.
    Raises ModelError where a recurrent layer's tensors do not agree on one width.
    """
    for kinds, rule in _RULES:
        if isinstance(module, kinds):
            found = rule(name, module, shapes, groups)
            return {k: v for k, v in found.items() if isinstance(getattr(module, k, None), int | tuple | list)}
    weight = shapes.get("weight")
    normalized = getattr(module, "normalized_shape", None)
    return {"normalized_shape": weight} if weight and isinstance(normalized, tuple) and normalized else {}


def _conv(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    module = cast("conv._ConvNd", module)
    weight = shapes.get("weight")
    count = module.groups if groups is None else groups
    if weight is None:
        return {}
    near, far = weight[0], weight[1] * count
    inputs, outputs = (near, far) if module.transposed else (far, near)
    return {"in_channels": inputs, "out_channels": outputs, "groups": count}


def _linear(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    weight = shapes.get("weight")
    return {"out_features": weight[0], "in_features": weight[1]} if weight else {}


def _bilinear(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    weight = shapes.get("weight")
    if weight is None:
        return {}
    return {"out_features": weight[0], "in1_features": weight[1], "in2_features": weight[2]}


def _first_dim(attribute: str) -> Callable[[str, nn.Module, Shapes, int | None], dict[str, Number]]:
    def rule(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
        for tensor in ("weight", "running_mean", "bias"):
            if shapes.get(tensor):
                return {attribute: shapes[tensor][0]}
        return {}

    return rule


def _layer_norm(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    weight = shapes.get("weight")
    return {"normalized_shape": weight} if weight else {}


def _embedding(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    weight = shapes.get("weight")
    return {"num_embeddings": weight[0], "embedding_dim": weight[1]} if weight else {}


def _recurrent(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    module = cast("rnn.RNNBase", module)
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    hidden = {shape[0] // gates for key, shape in shapes.items() if key.startswith("weight_hh")}
    if len(hidden) != 1:
        raise ModelError(f"{name}: one hidden width expected in all layers of a recurrent module, got {sorted(hidden)}")
    found: dict[str, Number] = {"hidden_size": hidden.pop(), "input_size": shapes["weight_ih_l0"][1]}
    if module.proj_size:
        found["proj_size"] = shapes["weight_hr_l0"][0]
    return found


def _cell(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    return {"hidden_size": shapes["weight_hh"][1], "input_size": shapes["weight_ih"][1]}


def _attention(name: str, module: nn.Module, shapes: Shapes, groups: int | None) -> dict[str, Number]:
    module = cast("nn.MultiheadAttention", module)
    if "in_proj_weight" in shapes:
        embed, width = shapes["in_proj_weight"][1], shapes["in_proj_weight"][0] // 3
        found: dict[str, Number] = {"embed_dim": embed, "kdim": embed, "vdim": embed}
    else:
        embed, width = shapes["q_proj_weight"][1], shapes["q_proj_weight"][0]
        found = {"embed_dim": embed, "kdim": shapes["k_proj_weight"][1], "vdim": shapes["v_proj_weight"][1]}
    if width != embed or embed % module.num_heads:
        raise ModelError(
            f"{name}: attention needs projections as wide as its embedding and a multiple of its {module.num_heads} heads, "
            f"got {width} and {embed}"
        )
    return {**found, "head_dim": embed // module.num_heads}


_RULES: tuple[
    tuple[tuple[type[nn.Module], ...], Callable[[str, nn.Module, Shapes, int | None], dict[str, Number]]], ...
] = (
    ((conv._ConvNd,), _conv),
    ((nn.Linear,), _linear),
    ((nn.Bilinear,), _bilinear),
    ((batchnorm._BatchNorm, instancenorm._InstanceNorm), _first_dim("num_features")),
    ((nn.GroupNorm,), _first_dim("num_channels")),
    ((nn.LayerNorm,), _layer_norm),
    ((nn.PReLU,), _first_dim("num_parameters")),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((rnn.RNNBase,), _recurrent),
    ((rnn.RNNCellBase,), _cell),
    ((nn.MultiheadAttention,), _attention),
)
