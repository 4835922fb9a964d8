"""A copy of a network that shares nothing mutable with it, whatever hooks and cached tensors it carries."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from types import MethodType
from typing import Any

from torch import Tensor, nn

from prunecore.errors import ModelError

_REBUILT_AT_NEED = "_compiled_call_impl"
_ATOMS = (bool, int, float, str, type(None))  # what deepcopy hands on as it is


def copy_model(model: nn.Module, replaced: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A deep copy of `model`: same class, values, dtype, device, memory format, flags and hooks; sharing is kept.

    Hooks are carried over as they are, not copied (they may hold a logger, a lock, a data loader); only methods bound to
    a module of the network are bound to its copy. Cached tensors with a history (old-style weight norm) are detached.
    replaced: tensors of the network, by `id`, that the copy gets something else for, which saves their copies.
    Raises ModelError where the network holds something that cannot be copied.
    """
    memo: dict[int, Any] = dict(replaced or {})
    kept: list[Any] = []  # deepcopy trusts ids in the memo: what they stand for must stay alive
    modules = {id(m): m for m in model.modules()}
    for module in modules.values():
        for hook in _hooks(module):
            if not (isinstance(hook, MethodType) and id(hook.__self__) in modules):
                memo[id(hook)] = hook
                kept.append(hook)
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
                kept.append(value)
    # ordinary modules are made by hand: deepcopy takes longer over their dozen empty hook tables than over their tensors
    plain = [m for m in modules.values() if _is_plain(type(m)) and id(m) not in memo]
    for module in plain:
        memo[id(module)] = module.__new__(type(module))
    try:
        for module in plain:
            _fill(memo[id(module)], module, memo)
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, ValueError, NotImplementedError) as error:
        message = f"{type(model).__name__} cannot be copied: {error}; remove that object from the network first"
        raise ModelError(message) from error


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether deepcopy would do no more than copy the module's `__dict__`."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__new__ is object.__new__
        and getattr(kind, "__getstate__", None) is getattr(nn.Module, "__getstate__", None)
        and kind.__setstate__ is nn.Module.__setstate__
        and not any(c.__dict__.get("__slots__") for c in kind.__mro__)
    )


def _fill(new: nn.Module, module: nn.Module, memo: dict[int, Any]) -> None:
    for key, value in vars(module).items():
        if type(value) in _ATOMS:
            vars(new)[key] = value
        elif type(value) in (dict, OrderedDict) and not value and id(value) not in memo:
            vars(new)[key] = type(value)()
        elif key != _REBUILT_AT_NEED:
            vars(new)[key] = copy.deepcopy(value, memo)


def _hooks(module: nn.Module) -> list[Any]:
    found: list[Any] = []
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            found.extend(value.values())
    return found
