"""Leave a model as it was: flags, hooks, values, whatever a forward did to them and however it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks


class Originals:
    """Copies of the parameters and buffers that a forward writes to, taken just before it does."""

    def __init__(self, model: nn.Module) -> None:
        self._owners: dict[int, Tensor] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self._owners.setdefault(tensor.untyped_storage()._cdata, tensor)
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def guard(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what the mutating operation `func` is about to change."""
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                    self._copy(tensor.untyped_storage()._cdata)

    def _copy(self, storage: int) -> None:
        owner = self._owners.get(storage)
        if owner is not None and storage not in self._copies:
            self._copies[storage] = owner, owner.detach().clone()

    def put_back(self) -> None:
        """Undo all changes."""
        with torch.no_grad():
            for owner, copy in self._copies.values():
                owner.copy_(copy)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Eval mode without calling `train()`, which models override; every module's flag is put back."""
    flags = [(m, m.training) for m in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def training_branches(model: nn.Module) -> Iterator[None]:
    """Train mode for modules with children, eval mode for leaves: branches are taken, statistics are not touched."""
    with evaluation(model):
        for module in model.modules():
            module.training = bool(module._modules)
        yield


@contextmanager
def hooked(enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    """Call `enter` before and `leave` after every module's forward."""
    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def plain_kernels() -> Iterator[None]:
    """No fused attention module (a trace may switch fused recurrent kernels off too), random numbers as they were, and no autograd."""
    fast = torch.backends.mha.get_fastpath_enabled()
    fused = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(fused)
