"""Resize lists of interface files: the live modules are edited in place, so that they keep whatever else they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunecore import ModelError

from .names import bracketed, listed, owner, shown
from .numbers import Shape, is_a, settle, shape_of, tensors_of


def rebuild(net: nn.Module, params: Mapping[str, Tensor], entries: Sequence[Any]) -> None:
    """Bring `net` to the shapes of `params`, as `entries` announce them (the last one of a module wins), and load them strictly.

    Raises ModelError where an entry names no module of the network, another type than it has, or other shapes than `params`,
    where a known layer changed without an entry, and where `params` are not those of the network.
    """
    after = _new_shapes(net, params)
    wanted = _wanted(net, entries, after)
    told = {id(t) for m in net.modules() if id(m) in wanted for t in tensors_of(m).values()}
    for name, module in net.named_modules():
        own, before = tensors_of(module), shape_of(module)
        changed = {id(t) for t in own.values()} & after.keys()
        if changed or id(module) in wanted:
            shapes = {key: after.get(id(t), tuple(t.shape)) for key, t in own.items()}
            settle(name, module, shapes, wanted.get(id(module)))
        if id(module) not in wanted and changed - told and shape_of(module) != before:
            raise ModelError(
                f"resize: {name} ({type(module).__name__}) has other shapes in `params`, but no entry says so"
            )
    _load(net, params)


def entries_of(before: nn.Module, after: nn.Module, *, dialect: str) -> list[dict[str, Any]]:
    """Entries for every layer that changed: plain values, in the order of the network.

    dialect `old`: one a parameter, dotted types, indices in brackets; `new`: one a module, short types, dotted names.
    """
    found: list[dict[str, Any]] = []
    ours = dict(after.named_modules())
    for name, module in before.named_modules():
        old, new, kind = shape_of(module), shape_of(ours[name]), type(module)
        if old is None or new is None or old == new:
            continue
        names, said = [name], kind.__name__
        if dialect == "old":
            changed = [n for n, p in module.named_parameters(recurse=False) if p.shape != getattr(ours[name], n).shape]
            names = [bracketed(f"{name}.{n}".lstrip(".")) for n in changed] or [bracketed(name)]
            said = f"{kind.__module__}.{kind.__qualname__}"
        # a list of its own for each, as others may change them in place
        found += [{"name": n, "type": said, "orig_shape": list(old), "shape": list(new)} for n in names]
    return found


# ---------------------------------------------------------------- entries


def _wanted(net: nn.Module, entries: Sequence[Any], after: Mapping[int, Shape]) -> dict[int, Shape]:
    """The last shape that entries give each module, by `id`."""
    sharers: dict[int, set[int]] = {}
    for module in net.modules():
        for tensor in tensors_of(module).values():
            sharers.setdefault(id(tensor), set()).add(id(module))
    found: dict[int, Shape] = {}
    for number, entry in enumerate(entries):
        module, shape = _entry(net, f"resize[{number}]", entry, after)
        if shape is None:
            continue
        found[id(module)] = shape
        # other tools name a shared tensor once: what was said before of other layers that have it is out of date
        for other in {key for t in tensors_of(module).values() for key in sharers[id(t)]}:
            if found.get(other, shape) != shape:
                del found[other]
    return found


def _entry(net: nn.Module, where: str, entry: Any, after: Mapping[int, Shape]) -> tuple[nn.Module, Shape | None]:
    if not isinstance(entry, Mapping) or not {"name", "type", "shape"} <= set(entry):
        raise ModelError(f"{where}: expected name, type and shape, got {shown(entry)}")
    name, kind, shape = entry["name"], entry["type"], entry["shape"]
    module, parameter = owner(net, name)
    expected = shape_of(module)
    if expected is None or not isinstance(kind, str) or not is_a(module, kind):
        other = "" if expected is not None else ", which a resize list cannot describe"
        raise ModelError(f"{where}: {name} is a {type(module).__name__}{other}, the file says {shown(kind)}")
    if not isinstance(shape, (list, tuple)) or not all(type(n) is int and n > 0 for n in shape):
        raise ModelError(f"{where}: {name}: shape must be positive whole numbers, got {shown(shape)}")
    if parameter == "bias" and len(shape) == 1 and len(expected) == 2:  # its own length, not the layer's numbers
        bias = tensors_of(module)["bias"]
        expected = after.get(id(bias), tuple(bias.shape))
        if tuple(shape) != expected:
            raise ModelError(f"{where}: {name}: the file says {list(shape)}, its `params` are for {list(expected)}")
        return module, None
    if len(shape) != len(expected):
        raise ModelError(
            f"{where}: {name}: a {type(module).__name__} has {len(expected)} numbers, got {shown(list(shape))}"
        )
    return module, tuple(shape)


# ---------------------------------------------------------------- params


def _new_shapes(net: nn.Module, params: Mapping[str, Tensor]) -> dict[int, Shape]:
    """Tensors, by `id`, that have another shape in `params`; ModelError where `params` are those of another network."""
    own = nn.Module.state_dict(net, keep_vars=True)
    if missing := [n for n in own if n not in params]:
        raise ModelError(f"params: the network has {listed(missing)}, the file does not")
    if unknown := [n for n in params if n not in own]:
        raise ModelError(f"params: the file has {listed(unknown)}, the network does not")
    firsts: dict[int, str] = {}
    for name, tensor in own.items():
        given, first = params[name], firsts.setdefault(id(tensor), name)
        if given.ndim != tensor.ndim or given.is_floating_point() != tensor.is_floating_point():
            raise ModelError(f"params: {name} is {_described(tensor)} in the network, {_described(given)} in the file")
        if first != name and not (given.dtype == params[first].dtype and torch.equal(given, params[first])):
            raise ModelError(f"params: {first} and {name} are one tensor in the network, but differ in the file")
    return {id(t): tuple(params[n].shape) for n, t in own.items() if t.shape != params[n].shape}


def _load(net: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Values, shapes and dtypes of `params`, in the tensors that are there: flags, hooks and sharing stay."""
    for name, tensor in nn.Module.state_dict(net, keep_vars=True).items():
        given = params[name]
        if tensor.shape != given.shape or tensor.dtype != given.dtype:
            tensor.data = torch.empty(given.shape, dtype=given.dtype, device=tensor.device)
    try:
        # the class's own method may ignore `strict` and rename what it does not know
        nn.Module.load_state_dict(net, dict(params), strict=True)
    except RuntimeError as fault:  # layers may have a way of their own to load
        raise ModelError(f"params do not fit {type(net).__name__}: {' '.join(str(fault).split())[:300]}") from fault


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
