"""Removing channels for real: a proposal becomes a recipe (pure), a recipe becomes a smaller network (on a copy)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from prunecore.errors import ModelError, listing, nearest
from prunecore.surgery.copying import copy_model
from prunecore.surgery.layers import Number, layer_attributes
from prunecore.types import (
    AttributeEdit,
    ChannelGroup,
    DependencyGraph,
    Indices,
    Proposal,
    Recipe,
    Slice,
    TensorShape,
    ValueEdit,
    Width,
)


def resize(model: nn.Module, graph: DependencyGraph, proposal: Proposal) -> tuple[nn.Module, Recipe]:
    """Carry out `proposal` on a copy of `model`; `model` stays bit-equal.

    The copy keeps shared tensors shared, and `requires_grad`, dtype, device, memory format, train/eval flag and hooks.
    Raises ModelError where the proposal does not fit the graph or the graph does not fit the network.
    """
    recipe = make_recipe(model, graph, proposal)
    return apply_recipe(model, recipe), recipe


# ---------------------------------------------------------------- proposal -> recipe


def make_recipe(model: nn.Module, graph: DependencyGraph, proposal: Proposal) -> Recipe:
    """What `proposal` means for the tensors and the Python numbers of `model`. Nothing is changed."""
    tensors = named_tensors(model)
    groups = {g.name: g for g in graph.groups}
    for name in proposal.kept:
        if name not in groups:
            raise ModelError(
                f"the proposal cuts {name!r}, which is no channel group of the network{nearest(name, groups)}"
            )
    kept = {name: np.asarray(index, dtype=np.int64) for name, index in proposal.kept.items()}
    for name, index in kept.items():
        _check_group(groups[name], index)
    slices = _slices(tensors, [groups[name] for name in kept], kept)
    shapes = _new_shapes(tensors, slices)
    after = {id(tensors[s.tensor]): s.after for s in shapes}
    counts = graph.widths | {name: len(index) for name, index in kept.items()}
    _check_links(graph, counts)
    return Recipe(
        slices=slices,
        attributes=tuple(_attribute_edits(model, graph, counts, after)),
        values=tuple(_value_edits(graph, counts, slices)),
        widths=tuple(Width(g.name, g.channels, counts[g.name]) for g in graph.groups if counts[g.name] != g.channels),
        shapes=shapes,
    )


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a shared tensor appears under its first name only."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def are_channels(kept: Indices, channels: int) -> bool:
    """Whether `kept` is at least one index, ascending within 0 … channels - 1."""
    if kept.ndim != 1 or not len(kept):
        return False
    return bool(kept[0] >= 0 and kept[-1] < channels and (np.diff(kept) > 0).all())


def _check_group(group: ChannelGroup, kept: Indices) -> None:
    if not len(kept):
        raise ModelError(f"{group.name}: the proposal keeps no channel of {group.channels}; at least 1 has to stay")
    if not are_channels(kept, group.channels):
        got = listing(map(str, kept), most=8)
        raise ModelError(f"{group.name}: kept channels must ascend within 0 … {group.channels - 1}, got {got}")
    if group.frozen and len(kept) < group.channels:
        raise ModelError(f"{group.name}: its channels may not be cut ({group.frozen})")
    for partition in group.partitions:
        counts = np.bincount(partition.part[kept], minlength=partition.parts)
        if (counts != counts[0]).any():
            got = listing(map(str, counts), most=8)
            raise ModelError(f"{group.name}: equal counts expected in every part ({partition.reason}), got {got}")


def _check_links(graph: DependencyGraph, counts: Mapping[str, int]) -> None:
    for link in graph.links:
        got = [counts[name] for name in link.groups]
        if any(count * link.ratios[0] != got[0] * ratio for count, ratio in zip(got, link.ratios, strict=True)):
            raise ModelError(
                f"{', '.join(link.groups)} are linked {link.ratios} ({link.reason}), the proposal keeps {got}"
            )


def _slices(
    tensors: Mapping[str, Tensor], groups: list[ChannelGroup], kept: Mapping[str, Indices]
) -> tuple[Slice, ...]:
    stays: dict[tuple[str, int], np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
    for group in groups:
        leaves = np.ones(group.channels, dtype=bool)
        leaves[kept[group.name]] = False
        removed = np.flatnonzero(leaves)
        for member in group.members if len(removed) else ():
            if member.tensor not in tensors:
                raise ModelError(
                    f"group {group.name}: the network has no tensor {member.tensor!r}; trace this network again"
                )
            size = tensors[member.tensor].shape[member.dim]
            if member.index.max() >= size:
                got = f"position {member.index.max()} of {member.tensor} dim {member.dim}"
                raise ModelError(f"group {group.name}: {got} is past its size {size}; trace this network again")
            mask = stays.setdefault((member.tensor, member.dim), np.ones(size, dtype=bool))
            mask[member.index[removed].ravel()] = False
    for (tensor, dim), mask in stays.items():
        if not mask.any():
            raise ModelError(
                f"{tensor}: nothing of dim {dim} would stay; keep at least one channel of each of its groups"
            )
    known: dict[bytes, tuple[int, ...]] = {}  # the tensors of a group share one tuple
    found = []
    for (tensor, dim), mask in stays.items():
        if (key := mask.tobytes()) not in known:
            known[key] = tuple(np.flatnonzero(mask).tolist())
        found.append(Slice(tensor, dim, len(mask), known[key]))
    return tuple(found)


def _new_shapes(tensors: Mapping[str, Tensor], slices: tuple[Slice, ...]) -> tuple[TensorShape, ...]:
    after = {s.tensor: list(tensors[s.tensor].shape) for s in slices}
    for cut in slices:
        after[cut.tensor][cut.dim] = len(cut.kept)
    return tuple(TensorShape(name, tuple(tensors[name].shape), tuple(shape)) for name, shape in after.items())


def _attribute_edits(
    model: nn.Module, graph: DependencyGraph, counts: Mapping[str, int], shapes: Mapping[int, tuple[int, ...]]
) -> Iterator[AttributeEdit]:
    """Known layers are set from their tensors, the rest as the graph says; only what changes is listed.

    shapes: of the cut tensors, by the `id` of the whole one.
    """
    derived = _derived(model, graph, counts)
    for name, module in model.named_modules():
        own = _own_tensors(module)
        new: dict[str, Number] = {}
        if any(id(t) in shapes for t in own.values()):
            groups = derived.get(name, {}).get("groups")
            new_shapes = {key: shapes.get(id(t), tuple(t.shape)) for key, t in own.items()}
            new = layer_attributes(name, module, new_shapes, groups if isinstance(groups, int) else None)
        for attribute, value in {**new, **derived.get(name, {})}.items():
            old = _number(name, module, attribute)
            if old != value:
                yield AttributeEdit(name, attribute, old, value)


def _value_edits(graph: DependencyGraph, counts: Mapping[str, int], slices: tuple[Slice, ...]) -> Iterator[ValueEdit]:
    """Weights that make up for a scale which follows a width; positions of the cut tensor."""
    kept = {(s.tensor, s.dim): s.kept for s in slices}
    for form in graph.values:
        old, new = form.width(graph.widths), form.width(counts)
        if old != new:
            inside = set(form.index)
            positions = kept.get((form.tensor, form.dim))
            index = form.index if positions is None else tuple(i for i, p in enumerate(positions) if p in inside)
            yield ValueEdit(form.tensor, (old / new) ** form.power, form.dim, index)


def _derived(model: nn.Module, graph: DependencyGraph, counts: Mapping[str, int]) -> dict[str, dict[str, Number]]:
    """module -> attribute -> new value, as the graph says."""
    modules = dict(model.named_modules())
    found: dict[str, dict[str, Number]] = {}
    for form in graph.attributes:
        own = found.setdefault(form.module, {})
        if form.index is None:
            own[form.attribute] = form.value(counts)
            continue
        whole = own.get(form.attribute, _number(form.module, modules[form.module], form.attribute))
        values = list(whole) if isinstance(whole, tuple) else [whole]
        values[form.index] = form.value(counts)
        own[form.attribute] = tuple(values)
    return found


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors by the name that its forward uses; weight norm and parametrizations show their originals."""
    found = {key: t for key, t in [*module._parameters.items(), *module._buffers.items()] if t is not None}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found[hook.name] = found[f"{hook.name}_v"]
    parametrizations = getattr(module, "parametrizations", None)
    if isinstance(parametrizations, nn.ModuleDict):
        for key, originals in parametrizations.items():
            own = originals._parameters | originals._buffers
            original = own.get("original", own.get("original1"))
            if original is not None:
                found[key] = original
    return found


def _number(name: str, module: nn.Module, attribute: str) -> Number:
    value = getattr(module, attribute, None)
    if isinstance(value, tuple | list):
        return tuple(int(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ModelError(f"{name}.{attribute}: a whole number or a tuple of them was expected, got {value!r}")


# ---------------------------------------------------------------- recipe -> network


def apply_recipe(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of `model`, cut as `recipe` says; `model` is untouched.

    Raises ModelError that names tensor or attribute, what was got and what was expected, where the network is not the one
    that the recipe was made for.
    """
    whole = named_tensors(model)
    _check_fits(model, whole, recipe)
    with torch.no_grad():
        cuts = slice_all({s.tensor: whole[s.tensor] for s in recipe.slices}, recipe.slices)
        plain = [name for name in cuts if type(whole[name]) in (nn.Parameter, Tensor) and not vars(whole[name])]
        pruned = copy_model(model, {id(whole[name]): _like(whole[name], cuts[name]) for name in plain})
        rest = cuts.keys() - set(plain)
        tensors = named_tensors(pruned) if rest or recipe.values else {}
        for name in rest:
            # in place, so that every reference to a shared tensor sees the cut one
            tensors[name].data = cuts[name]
        for value in recipe.values:
            scale(tensors[value.tensor], value)
    modules = dict(pruned.named_modules())
    for edit in recipe.attributes:
        kind = type(getattr(modules[edit.module], edit.attribute))
        setattr(modules[edit.module], edit.attribute, kind(edit.new) if kind in (list, torch.Size) else edit.new)
    for module in pruned.modules():
        _refresh(module)
    return pruned


def _like(tensor: Tensor, cut: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(cut, requires_grad=tensor.requires_grad)
    return cut.requires_grad_(tensor.requires_grad)


def slice_all(tensors: Mapping[str, Tensor], slices: tuple[Slice, ...]) -> dict[str, Tensor]:
    """The tensors with every slice taken, detached, memory format kept. Inputs are untouched."""
    result = {name: tensor.detach() for name, tensor in tensors.items()}
    indices: dict[tuple[int, torch.device], Tensor] = {}
    for cut in slices:
        key = id(cut.kept), result[cut.tensor].device
        if key not in indices:
            indices[key] = torch.tensor(cut.kept, dtype=torch.long, device=key[1])
        result[cut.tensor] = result[cut.tensor].index_select(cut.dim, indices[key])
    return {name: _in_order_of(tensors[name], cut) for name, cut in result.items()}


def _in_order_of(original: Tensor, cut: Tensor) -> Tensor:
    """`cut` laid out in memory as `original` is (channels_last stays channels_last)."""
    if original.is_contiguous():
        return cut.contiguous()
    order = sorted(range(original.dim()), key=original.stride, reverse=True)
    back = sorted(range(original.dim()), key=order.__getitem__)
    return cut.permute(order).contiguous().permute(back)


def scale(tensor: Tensor, edit: ValueEdit) -> None:
    """Carry out one declared value edit in place."""
    if edit.index is None:
        tensor.data.mul_(edit.factor)
        return
    index = torch.tensor(edit.index, dtype=torch.long, device=tensor.device)
    tensor.data.index_copy_(edit.dim, index, tensor.data.index_select(edit.dim, index) * edit.factor)


def _refresh(module: nn.Module) -> None:
    """What a layer caches of its tensors: old-style weight norm's product, cuDNN's flat recurrent weights."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            setattr(module, hook.name, hook.compute_weight(module))
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()


def _check_fits(model: nn.Module, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    kind = type(model).__name__
    shapes = {s.tensor: s.before for s in recipe.shapes}
    for name in dict.fromkeys([*shapes, *(s.tensor for s in recipe.slices), *(v.tensor for v in recipe.values)]):
        if name not in tensors:
            raise ModelError(
                f"{kind} has no tensor {name!r} that the recipe names{nearest(name, tensors)}; it needs the original class"
            )
        got = tuple(tensors[name].shape)
        if shapes.get(name, got) != got:
            raise ModelError(
                f"{kind}: {name} has shape {got}, the recipe expects {shapes[name]}; it needs the original class"
            )
    for cut in recipe.slices:
        got = tuple(tensors[cut.tensor].shape)
        if cut.dim >= len(got) or got[cut.dim] != cut.size:
            raise ModelError(
                f"{kind}: {cut.tensor} has shape {got}, the recipe expects size {cut.size} in dim {cut.dim}; "
                f"it needs the original class"
            )
    modules = dict(model.named_modules())
    for edit in recipe.attributes:
        if edit.module not in modules:
            raise ModelError(f"{kind} has no module {edit.module!r} that the recipe names; it needs the original class")
        old = _number(edit.module, modules[edit.module], edit.attribute)
        if old != edit.old:
            where = f"{edit.module}.{edit.attribute}"
            raise ModelError(f"{kind}: {where} is {old}, the recipe expects {edit.old}; it needs the original class")
