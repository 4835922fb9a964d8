"""What a file of a whole module may use beside trusted code: torch's layers and tensor functions, containers, numbers of numpy.

Stand-ins take the place of what could do more than a network needs: they raise UnpicklingError, which the reader reports.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import enum
import functools
import importlib
import inspect
import pickle
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from prunecore import ModelError
from prunecore.loading import Allowed
from prunecore.loading.opcodes import DATA, Items, Made

if TYPE_CHECKING:
    from prunecore.loading import Trust

_TYPES = "int float bool str list tuple dict"
_CONTAINERS: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "builtins.frozenset": frozenset,
    "builtins.slice": slice,
    "collections.defaultdict": collections.defaultdict,
    "collections.deque": collections.deque,
    "types.SimpleNamespace": types.SimpleNamespace,
    "functools.partial": functools.partial,  # calls nothing that is not allowed itself
}
_OPERATORS = (
    "abs add bmm cat celu clamp cos div exp flatten log log_softmax matmul max maximum mean min minimum mul pow relu relu_ "
    "rsqrt selu sigmoid sigmoid_ sin softmax sqrt stack sub sum tanh tanh_"
)
_NUMBERS = "?bBhHiIlLqQefd"
_ORDERS = [(3, order) for order in "<>|="]
_LONGEST_RANGE = 1_000_000
_HOOKS = {
    "torch.nn.modules.module": ("_WrappedHook",),
    "torch.nn.utils.weight_norm": ("WeightNorm",),
    "torch.nn.utils.spectral_norm": ("SpectralNorm", "SpectralNormStateDictHook", "SpectralNormLoadStateDictPreHook"),
}


def allowed_for(module: str, name: str, trust: Trust) -> list[Allowed]:
    """What the restricted unpickler may use for one global: nothing where torch allows it by itself."""
    full = f"{module}.{name}"
    if full in _by_torch():
        return []
    if full in _STAND_INS:
        return [Allowed(_STAND_INS[full], full, called=True)]
    if full in _CONTAINERS:
        return [Allowed(_CONTAINERS[full], full, made=full == "argparse.Namespace", called=True)]
    if module == "builtins" and name in _TYPES.split():
        return [Allowed(getattr(builtins, name), full)]
    if full == "torch._C._VariableFunctionsClass":
        return [Allowed(_Operators, full)]
    if module.partition(".")[0] == "numpy":
        return _numpy(module, name)
    if module.partition(".")[0] == "torch":
        found = _torch(module, name)
        return [Allowed(found, full, made=inspect.isclass(found))]
    found = trust.resolve(module, name)
    is_class = inspect.isclass(found)
    return [Allowed(found, full, made=is_class, called=is_class and issubclass(found, enum.Enum))]


@functools.cache
def _by_torch() -> frozenset[str]:
    """Names that `weights_only` allows by itself."""
    names = {
        "collections.OrderedDict",
        "collections.Counter",
        "_codecs.encode",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
    }
    names |= {f"builtins.{n}" for n in ("set", "bytearray", "complex")}
    names |= {"torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2"}
    names |= {f"torch._utils.{n}" for n in vars(torch._utils) if n.startswith("_rebuild_")}
    names |= {f"torch.{n}" for n, v in vars(torch).items() if isinstance(v, torch.dtype) or n.endswith("Storage")}
    return frozenset(names | {f"torch.storage.{n}" for n in ("UntypedStorage", "TypedStorage")})


def _torch(module: str, name: str) -> Any:
    """A layer or a plain tensor function of torch. torch has others that read files or run code: those are refused."""
    if module.startswith(("torch.nn.", "torch.ao.nn.")) or module == "torch._C._nn":
        try:
            found: Any = getattr(importlib.import_module(module), name, None)
        except Exception:  # a part of torch that needs more than is here
            found = None
        if inspect.isclass(found) and issubclass(found, nn.Module) and found.__module__ == module:
            return found
        if name in _HOOKS.get(module, ()) and inspect.isclass(found):
            return found
        if module == "torch._C._nn" and inspect.isbuiltin(found):
            return found
        if module == "torch.nn.functional" and inspect.isfunction(found) and found.__module__ == module:
            return found
    if module.startswith("torch.jit") or "ScriptModule" in name:
        raise ModelError(f"{module}.{name} is TorchScript; give the module that it was made from")
    raise ModelError(f"{module}.{name} of torch is neither a layer nor a plain function of tensors and is not used")


def _numpy(module: str, name: str) -> list[Allowed]:
    """Scalars and arrays of numbers, which networks keep as widths."""
    full, found = f"{module}.{name}", getattr(np, name, None)
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
        return [Allowed(_number, full, called=True)]
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
        return [Allowed(_empty_array, full, called=True, state=_is_array)]
    if full == "numpy.dtype":
        kinds = {type(np.dtype(code)) for code in _NUMBERS}
        return [
            Allowed(_number_type, full, called=True, state=_is_number_type),
            *(Allowed(kind, f"{kind.__module__}.{kind.__qualname__}") for kind in kinds),
        ]
    if (
        module == "numpy"
        and inspect.isclass(found)
        and (found is np.ndarray or issubclass(found, (np.number, np.bool_)))
    ):
        return [Allowed(found, full)]
    raise ModelError(f"{full} of numpy is neither a scalar nor an array and is not used")


class _Operators:
    """Stands for the class that torch's built-in operators are pickled as attributes of."""


def _operator(owner: Any, name: str) -> Any:
    """What `getattr` may do while a file is read: name one of torch's plain operators."""
    if owner is not _Operators or name not in _OPERATORS.split():
        kind = owner.__name__ if inspect.isclass(owner) else type(owner).__name__
        raise pickle.UnpicklingError(f"it may not read the attribute {name!r:.60} of {kind}")
    return getattr(torch, name)


def _short_range(*numbers: int) -> range:
    """`set` and others go through all of it."""
    found = range(*numbers)
    if len(found) > _LONGEST_RANGE:
        raise pickle.UnpicklingError(f"a range of {len(found)} numbers")
    return found


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> Any:
    """Arrays are pickled as empty ones, whose content follows."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"an array of shape {shape} without content")
    return np.ndarray(shape, np.dtype("b"))


def _number_type(code: str, *flags: bool) -> Any:
    found = np.dtype(code)
    if found.char not in _NUMBERS:
        raise pickle.UnpicklingError(f"an array of {code!r:.60}, expected numbers")
    return np.dtype(code, *flags)


def _number(kind: Any, content: bytes) -> Any:
    if not isinstance(kind, np.dtype) or not isinstance(content, bytes) or len(content) != kind.itemsize:
        raise pickle.UnpicklingError("a number of numpy of another size than its type has")
    return np.frombuffer(content, kind)[0]


# numpy itself takes the state of a file as it is, and falls over what it does not expect


def _is_number_type(state: Any) -> bool:
    return isinstance(state, Items) and state.items[:2] in _ORDERS and state.items[2:] == (None, None, None, -1, -1, 0)


def _is_array(state: Any) -> bool:
    items = state.items if isinstance(state, Items) else ()
    if len(items) != 5 or not isinstance(items[1], Items) or not isinstance(items[2], Made) or items[2].by is None:
        return False
    version, shape, kind, ordered, content = items
    sizes = all(type(n) is int and n >= 0 for n in shape.items)
    return version == 1 and sizes and kind.by.full == "numpy.dtype" and type(ordered) is bool and content is DATA


def _no_bytes() -> bytes:
    """Other bytes are pickled as text."""
    return b""


_STAND_INS = {"builtins.bytes": _no_bytes, "builtins.getattr": _operator, "builtins.range": _short_range}
