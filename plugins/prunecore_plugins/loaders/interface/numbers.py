"""What the numbers of a resize list mean, by the live module, and how they are set in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm
from torch.nn.utils.weight_norm import WeightNorm

from prunecore import ModelError
from prunecore.surgery import layer_attributes

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# attributes, in the order of an entry's `shape`
_MEANING: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    ((conv._ConvNd,), ("in_channels", "out_channels")),
    ((batchnorm._BatchNorm, instancenorm._InstanceNorm), ("num_features",)),
    ((nn.Linear,), ("in_features", "out_features")),
    ((nn.GroupNorm,), ("num_channels",)),
    ((nn.LayerNorm,), ("normalized_shape",)),
    ((nn.PReLU,), ("num_parameters",)),
    ((nn.Embedding,), ("num_embeddings", "embedding_dim")),
)
_VECTORS = ("bias", "running_mean", "running_var")


def shape_of(module: nn.Module) -> Shape | None:
    """What an entry's `shape` holds for this module (in/out from the module, not from its weight); None: not expressible."""
    if isinstance(module, nn.LayerNorm):
        return tuple(module.normalized_shape)
    names = _names(module)
    return tuple(int(getattr(module, name)) for name in names) if names else None


def is_a(module: nn.Module, kind: str) -> bool:
    """Whether an entry's type (`Conv2d`, or dotted) names the class of the module, or a layer of torch that it derives from."""
    kinds = next((kinds for kinds, _ in _MEANING if isinstance(module, kinds)), ())
    return kind.rpartition(".")[2] in {c.__name__ for c in type(module).__mro__ if issubclass(c, kinds)}


def settled(name: str, module: nn.Module) -> frozenset[str]:
    """Attributes that entries and tensors settle between them."""
    shapes = {key: tuple(t.shape) for key, t in tensors_of(module).items()}
    return frozenset([*_names(module), *layer_attributes(name, module, shapes, None)])


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers by the names that its forward uses; reparametrized ones show their originals."""
    found: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found[hook.name] = found[f"{hook.name}_v"]
    for key, originals in getattr(module, "parametrizations", {}).items():
        own = {**originals._parameters, **originals._buffers}
        found[key] = own.get("original1", own.get("original"))
    return {key: t for key, t in found.items() if t is not None}


def settle(name: str, module: nn.Module, shapes: Shapes, wanted: Shape | None) -> None:
    """Set the numbers of a module to those of an entry and of its tensors' new shapes.

    Raises ModelError where the two do not fit each other.
    """
    said, groups = wanted, None
    if wanted is not None and isinstance(module, conv._ConvNd) and "weight" in shapes:
        said, groups = _groups(name, module, shapes["weight"], wanted)
    numbers = {} if said is None else _numbers(module, said)
    for attribute, value in {**numbers, **layer_attributes(name, module, shapes, groups)}.items():
        setattr(module, attribute, value)
    got = shape_of(module)
    if said is not None and got != said:
        raise ModelError(f"resize: {name}: the file says {list(said)}, its `params` are for {list(got or ())}")
    _check(name, module, shapes)


def _names(module: nn.Module) -> tuple[str, ...]:
    return next((names for kinds, names in _MEANING if isinstance(module, kinds)), ())


def _numbers(module: nn.Module, shape: Shape) -> dict[str, int | Shape]:
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": shape}
    return dict(zip(_names(module), shape, strict=True))


def _groups(name: str, module: nn.Module, weight: Shape, wanted: Shape) -> tuple[Shape, int]:
    """in/out and the groups, in_channels // weight.shape[1] (the outputs are split in a transposed convolution)."""
    module = cast("conv._ConvNd", module)
    if module.groups == 1:
        return wanted, 1  # no pruning splits a convolution into groups
    outer, inner = weight[:2]
    multiplier = module.out_channels // module.in_channels
    depthwise = not module.transposed and module.groups == module.in_channels
    if depthwise and wanted[0] == inner == 1 and outer > multiplier:  # was read off the weight, not the module
        return (outer // multiplier, outer), outer // multiplier
    groups = wanted[1 if module.transposed else 0] // inner
    grown = groups > module.groups or (depthwise and outer > multiplier * groups)
    if groups < 1 or grown or any(n % groups for n in wanted):
        raise ModelError(
            f"resize: {name}: {list(wanted)} does not fit its weight {list(weight)}, {module.groups} groups before"
        )
    return wanted, groups


def _check(name: str, module: nn.Module, shapes: Shapes) -> None:
    """Kernels are never cut; vectors are as long as the layer is wide."""
    numbers = shape_of(module)
    if numbers is None or isinstance(module, nn.Embedding):
        return
    if isinstance(module, (conv._ConvNd, nn.Linear)) and "weight" not in shapes:
        return  # computed by a hook, in a way that is not known
    if isinstance(module, conv._ConvNd) and shapes["weight"][2:] != tuple(module.kernel_size):
        raise ModelError(
            f"params: {name} has kernels of {list(module.kernel_size)}, the file {list(shapes['weight'][2:])}"
        )
    width = numbers if isinstance(module, nn.LayerNorm) else numbers[-1:]
    for key in _VECTORS:
        if shapes.get(key, width) != width:
            raise ModelError(f"params: {name}.{key} should have shape {list(width)}, the file has {list(shapes[key])}")
