"""What every operation does to the masks of dead elements: one line of the table at the end for each.

A rule runs the operation and says which elements of its outputs are dead: `rule(mode, func, bound) -> (output, masks)`,
where `bound` holds the arguments by name. Moving elements moves masks; products are dead where a whole row is; what is
summed up over channels is restricted to the living ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

if TYPE_CHECKING:
    from prunecore.surgery.masking import DeadChannels

Bound = dict[str, Any]
Rule = Callable[["DeadChannels", Any, Bound], tuple[Any, Any]]


def tensors_in(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [v for v in _sequence(value) if isinstance(v, Tensor)]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _call(func: Any, bound: Bound) -> Any:
    return func(**bound)


def unknown(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    mode.unknown[func._schema.name.partition("::")[2]] += 1
    return _call(func, bound), None


def pointwise(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """Dead where any operand is: the cut network has no such element."""
    masks = [mode.dense(t) for t in tree_leaves(bound) if isinstance(t, Tensor) and mode.mask(t) is not None]
    out = _call(func, bound)
    mask = torch.zeros((), dtype=torch.bool, device=out.device)
    for other in masks:
        mask = mask | other
    if out.is_floating_point() or out.is_complex():
        out.masked_fill_(mask, 0)
    return out, mask


def _copy(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """A write: the mask is written as the data is, so that views of one tensor stay of one mind."""
    out, target = _call(func, bound), mode.mask(bound["self"])
    source = mode.dense(bound["src"]).expand(out.shape)
    if target is not None and 0 not in target.stride():
        return out, target.copy_(source)
    return out, source.clone()


def _moving(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """Operations that only move elements do to the masks what they do to the data."""

    def replace(tensor: Tensor) -> Tensor:
        return mode.dense(tensor) if tensor.is_floating_point() or tensor.is_complex() else tensor

    moved = tree_map_only(Tensor, replace, bound) | ({"value": 0} if "value" in bound else {})
    try:
        masks = _call(func, moved)
    except (RuntimeError, NotImplementedError):  # some kernels have no boolean variant, some views need memory
        wide = tree_map_only(Tensor, lambda t: t.contiguous().double() if t.dtype == torch.bool else t, moved)
        masks = tree_map_only(Tensor, lambda t: t != 0, _call(func, wide))
    return _call(func, bound), masks


def _same(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    mask = mode.dense(bound["self"])
    return _call(func, bound), mask if 0 in mask.stride() else mask.clone()


def _reshape(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    out = _call(func, bound)
    return out, mode.dense(bound["self"]).reshape(out.shape)


def _strided(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    data = bound["self"]
    mask = torch.empty_strided(data.shape, data.stride(), dtype=torch.bool, device=data.device)
    return _call(func, bound), _call(func, bound | {"self": mask.copy_(mode.dense(data))})


def _pairs(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    out, mask = _call(func, bound), mode.dense(bound["self"])
    return out, mask.any(-1) if out.is_complex() else mask.unsqueeze(-1).expand(out.shape)


def _glu(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    first, second = mode.dense(bound["self"]).chunk(2, bound.get("dim", -1))
    out = _call(func, bound)
    return out.masked_fill_(first | second, 0), first | second


def _spatial(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """Pooling and resampling: dead where nothing alive is in the window."""
    key = "input" if "input" in bound else "self"
    out = _call(func, bound)
    alive = _call(func, bound | {key: (~mode.dense(bound[key])).double()})
    mask = tensors_in(alive)[0] == 0
    tensors_in(out)[0].masked_fill_(mask, 0)
    return out, [mask]


def _matrix(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """Products: dead where a whole row or column that makes the element is dead."""
    left: Tensor = next(bound[key] for key in ("mat1", "batch1", "mat", "self") if key in bound)
    right: Tensor = next(bound[key] for key in ("mat2", "batch2", "vec") if key in bound)
    out = _call(func, bound)
    rows = mode.dense(left).all(-1, keepdim=True)
    mask = rows.squeeze(-1) if right.dim() == 1 else rows | mode.dense(right).all(-2, keepdim=True)
    if bound["self"] is not left:
        mask = mask | mode.dense(bound["self"])
    return out.masked_fill_(mask, 0), mask


def _linear(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    out, mask = _call(func, bound), mode.dense(bound["weight"]).all(-1)
    if bound.get("bias") is not None:
        mask = mask | mode.dense(bound["bias"])
    return out.masked_fill_(mask, 0), mask


def _convolution(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    weight, groups = bound["weight"], bound["groups"]
    dead = mode.dense(weight)
    if bound["transposed"]:
        parts = dead.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        rows = parts.all(-1).all(1).flatten()
    else:
        rows = dead.flatten(1).all(1)
    if bound.get("bias") is not None:
        rows = rows | mode.dense(bound["bias"])
    out = _call(func, bound)
    mask = rows.view([-1] + [1] * (weight.dim() - 2))
    return out.masked_fill_(mask, 0), mask


def _moments(x: Tensor, dead: Tensor, dims: list[int], correction: float = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of the living elements over `dims`, which are kept."""
    alive = ~dead
    count = alive.sum(dims, keepdim=True)
    mean = (x * alive).sum(dims, keepdim=True) / count.clamp(min=1)
    variance = (((x - mean) * alive) ** 2).sum(dims, keepdim=True) / (count - correction).clamp(min=1)
    return mean, variance


def _scaled(x: Tensor, bound: Bound, shape: list[int]) -> Tensor:
    weight, bias = bound.get("weight"), bound.get("bias")
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _affine_mask(mode: DeadChannels, dead: Tensor, bound: Bound, shape: list[int]) -> Tensor:
    for key in ("weight", "bias"):
        if bound.get(key) is not None:
            dead = dead | mode.dense(bound[key]).reshape(shape)
    return dead


def _layer_norm(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    x = bound["input"]
    dims = list(range(-len(bound["normalized_shape"]), 0))
    dead = mode.dense(x)
    eps = bound.get("eps") or torch.finfo(x.dtype).eps
    if "rms" in func._schema.name:
        mean, variance = torch.zeros((), dtype=x.dtype, device=x.device), _moments(x**2, dead, dims)[0]
    else:
        mean, variance = _moments(x, dead, dims)
    shape = list(bound["normalized_shape"])
    mask = _affine_mask(mode, dead, bound, shape)
    mode.restricted[func._schema.name.partition("::")[2]] += 1
    out = _scaled((x - mean) * (variance + eps).rsqrt(), bound, shape).masked_fill_(mask, 0)
    return ((out, variance) if "rms" in func._schema.name else (out, mean, variance)), [mask]


def _group_norm(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    x, dead = bound["input"], mode.dense(bound["input"])
    parts = (bound["N"], bound["group"], -1)
    mean, variance = _moments(x.reshape(parts), dead.reshape(parts), [2])
    shape = [-1] + [1] * (x.dim() - 2)
    mask = _affine_mask(mode, dead, bound, shape)
    mode.restricted["native_group_norm"] += 1
    normal = ((x.reshape(parts) - mean) * (variance + bound["eps"]).rsqrt()).reshape(x.shape)
    return (_scaled(normal, bound, shape).masked_fill_(mask, 0), mean, variance), [mask]


def _batch_norm(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """With running statistics it is pointwise; with those of the batch (weight standardisation) they are restricted."""
    x, dead = bound["input"], mode.dense(bound["input"])
    shape = [1, -1] + [1] * (x.dim() - 2)
    mask = _affine_mask(mode, dead, bound, shape)
    if not bound.get("training", "no_training" not in func._schema.name):
        out = _call(func, bound)
        tensors_in(out)[0].masked_fill_(mask, 0)
        return out, [mask]
    mean, variance = _moments(x, dead, [d for d in range(x.dim()) if d != 1])
    mode.restricted["batch_norm"] += 1
    eps = float(bound["eps"] if "eps" in bound else bound["epsilon"])
    out = _scaled((x - mean) * (variance + eps).rsqrt(), bound, shape).masked_fill_(mask, 0)
    return (out, mean.flatten(), variance.flatten()), [mask]


def _softmax(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    dead = mode.dense(bound["self"])
    out = _call(func, bound | {"self": bound["self"].masked_fill(dead, -torch.inf)})
    mode.restricted[func._schema.name.partition("::")[2]] += 1
    return out.masked_fill_(dead, 0), dead


def _reduction(mode: DeadChannels, func: Any, bound: Bound) -> tuple[Any, Any]:
    """Sums, means and extremes: restricted to the living; dead where nothing alive was summed up."""
    name = func._schema.name.partition("::")[2]
    x, dead = bound["self"], mode.dense(bound["self"])
    dims = bound.get("dim")
    dims = list(range(x.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    keep = bool(bound.get("keepdim", False))
    mask = dead
    for dim in sorted((d % max(x.dim(), 1) for d in dims), reverse=True):
        mask = mask.all(dim, keepdim=keep)
    if bool(dead.any() & ~mask.all()):
        mode.restricted[name] += 1
    if name in ("mean", "var", "std", "var_mean", "std_mean"):
        given = bound.get("correction", 1 if bound.get("unbiased", True) else 0)
        mean, variance = _moments(x, dead, dims, 1 if given is None else given)
        found = {"mean": mean, "var": variance, "std": variance.sqrt()}
        picked = [p if keep else p.reshape(mask.shape) for p in (found[n] for n in reversed(name.split("_")))]
        picked = [p.masked_fill(mask, 0) for p in (reversed(picked) if len(picked) == 2 else picked)]
        return (picked[0], [mask]) if len(picked) == 1 else (tuple(picked), [mask, mask])
    fill = {
        "amax": -torch.inf,
        "max": -torch.inf,
        "amin": torch.inf,
        "min": torch.inf,
        "logsumexp": -torch.inf,
        "prod": 1,
    }
    out = _call(func, bound | {"self": x.masked_fill(dead, fill.get(name, 0))})
    tensors_in(out)[0].masked_fill_(mask, 0)
    return out, [mask]


FACTORIES = frozenset(
    (
        "empty",
        "zeros",
        "ones",
        "full",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
        "empty_like",
        "zeros_like",
        "ones_like",
    )
)


def _table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


RULES: dict[str, Rule] = _table(
    (
        _moving,
        "permute transpose t expand slice select unsqueeze squeeze split split_with_sizes unsafe_split chunk unsafe_chunk "
        "unbind cat stack roll flip repeat unfold im2col pixel_shuffle pixel_unshuffle channel_shuffle index_select index "
        "gather constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d narrow diagonal tril triu embedding movedim take take_along_dim repeat_interleave",
    ),
    (_same, "clone alias detach lift_fresh contiguous _to_copy cumsum resolve_conj native_dropout"),
    (_reshape, "view _unsafe_view reshape _reshape_alias"),
    (_strided, "as_strided"),
    (_pairs, "view_as_complex view_as_real"),
    (_copy, "copy"),
    (_glu, "glu"),
    (
        _spatial,
        "max_pool1d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d "
        "_adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d upsample_trilinear3d grid_sampler_2d col2im",
    ),
    (_matrix, "mm bmm addmm baddbmm mv addmv"),
    (_linear, "linear"),
    (_convolution, "convolution"),
    (_layer_norm, "native_layer_norm _fused_rms_norm"),
    (_group_norm, "native_group_norm"),
    (
        _batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "_batch_norm_with_update _batch_norm_no_update miopen_batch_norm",
    ),
    (_softmax, "_softmax _log_softmax _safe_softmax"),
    (_reduction, "mean sum var std var_mean std_mean amax amin max min logsumexp prod norm linalg_vector_norm nansum"),
    (
        pointwise,
        "hardtanh hardswish hardsigmoid _prelu_kernel elu leaky_relu threshold mish softplus relu gelu silu sigmoid tanh where "
        "masked_fill lerp addcmul addcdiv clamp celu selu",
    ),
)
