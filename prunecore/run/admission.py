"""Which networks can be pruned as they are: wrappers are taken off, what nobody could cut is refused with advice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunecore.errors import ConfigError, ModelError

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_FLOAT = ("FloatFunctional", "FXFloatFunctional")  # they live there, and add and join floats
_COMPILED = "OptimizedModule"  # by name: its module is slow to import


def admit(model: object, *, values: bool = True) -> nn.Module:
    """The network itself: `torch.compile`, `DataParallel` and `DistributedDataParallel` taken off.

    values: the weights are needed (not so for a dependency graph). Raises ConfigError for what is no module, ModelError for
    supernets, TorchScript, quantised, sparse, uninitialised, sharded and (with `values`) meta-device networks, with what to do.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: a torch.nn.Module was expected, got {type(model).__name__}")
    while (inner := _inside(model)) is not None:
        model = inner
    for name, module in model.named_modules():
        fault = _fault_of_module(module)
        if fault:
            raise ModelError(f"{name or type(module).__name__} {fault}")
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            fault = None if tensor is None else _fault_of_tensor(tensor, values=values)
            if fault:
                raise ModelError(f"{f'{name}.{key}'.lstrip('.')} {fault}")
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model._modules.get("_orig_mod") if type(model).__name__ == _COMPILED else None


def _fault_of_module(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is a TorchScript module, whose code cannot be changed; give the nn.Module that it was made from"
    if type(module).__module__.startswith(_QUANTISED) and type(module).__name__ not in _FLOAT:
        return "is a quantised module; prune the network first, then quantise what comes out"
    if type(module).__name__ == _COMPILED:
        return "is compiled; give the network as it was before torch.compile, and compile what comes out"
    if callable(getattr(module, "get_active_subnet", None)):
        return (
            "is a supernet, whose layers take the widths of the moment; choose a subnet and prune what "
            "get_active_subnet(preserve_weight=True) gives"
        )
    if type(module).__name__ == "FullyShardedDataParallel":
        return "is sharded; give the network as it was before sharding, and shard what comes out"
    return None


def _fault_of_tensor(tensor: Tensor, *, values: bool) -> str | None:
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet (a lazy module); run the network once on real inputs first"
    if tensor.is_quantized:
        return "is quantised; prune the network first, then quantise what comes out"
    if tensor.layout != torch.strided:
        return f"is a sparse tensor ({tensor.layout}); store it dense (to_dense()) first"
    if values and tensor.is_meta:
        return "is on the meta device and has no values; load the weights first (to_empty() and load_state_dict())"
    return None
