"""A copy of a network that shares nothing mutable with it, whatever hooks and cached tensors it carries."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

from torch import Tensor, nn

from prunecore.errors import ModelError


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy of `model`: same class, values, dtype, device, memory format, flags and hooks; sharing is kept.

    Hooks are carried over as they are, not copied (they may hold a logger, a lock, a data loader); only methods bound to
    a module of the network are bound to its copy. Cached tensors with a history (old-style weight norm) are detached.
    Raises ModelError where the network holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    kept: list[Any] = []  # deepcopy trusts ids in the memo: what they stand for must stay alive
    modules = set(map(id, model.modules()))
    for module in model.modules():
        for hook in _hooks(module):
            if not (isinstance(hook, MethodType) and id(hook.__self__) in modules):
                memo[id(hook)] = hook
                kept.append(hook)
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
                kept.append(value)
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, ValueError, NotImplementedError) as error:
        message = f"{type(model).__name__} cannot be copied: {error}; remove that object from the network first"
        raise ModelError(message) from error


def _hooks(module: nn.Module) -> list[Any]:
    found: list[Any] = []
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            found.extend(value.values())
    return found
