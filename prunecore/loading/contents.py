"""What a file gave, looked over before anything is done with it: is it whole, and no larger than its file?"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunecore.errors import ModelError

_ROOM = 64 * 2**20  # bytes of tensors that any file may unfold to, beyond its own size
_UNFOLDING = 4  # times its own size that a file may unfold to (expanded buffers)
_DEPTH = 100  # modules inside modules, lists inside lists
_COUNT = 1_000_000  # items, when what is shared is counted wherever it stands
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_BLANK = vars(nn.Module())
_TABLES = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}


def check_contents(path: Path, found: Any, *, program: bool = False) -> None:
    """Raises ModelError where networks in `found` are not whole, where things contain themselves or stand in each other too
    deep or too often, and where tensors and arrays claim far more memory than the file has.

    program: the user runs the file as one; then only its networks must be whole.
    """
    reached = tuple(_reached(found))
    modules = [x for x in reached if isinstance(x, nn.Module)]
    for module in modules:
        fault = _fault_of(module, methods=not program)
        if fault:
            raise ModelError(f"{path}: is damaged: a {type(module).__name__} {fault}")
    counts: dict[int, tuple[int, int]] = {}
    for value in (*modules, *(x for x in reached if isinstance(x, _CONTAINERS) and not program)):
        _count(path, value, counts)
    if not program:
        _check_sizes(path, reached)


def _reached(found: Any) -> Iterator[Any]:
    """Everything inside, once."""
    seen, waiting = {id(found): found}, [found]
    while waiting:
        value = waiting.pop()
        yield value
        for part in _parts(value):
            if id(part) not in seen:
                seen[id(part)] = part
                waiting.append(part)


def _parts(value: Any) -> Iterator[Any]:
    yield from _items(value)
    if isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    if isinstance(value, Tensor) and value.is_leaf and value.grad is not None:
        yield value.grad
    if not isinstance(value, (type, FunctionType, ModuleType)):
        yield from getattr(value, "__dict__", {}).values()


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return tuple(value) if isinstance(value, _CONTAINERS) else ()


def _fault_of(module: nn.Module, *, methods: bool) -> str | None:
    """What of the attributes that every module has is missing, or is of another kind."""
    own = vars(module)
    odd = next((name for name in own if not isinstance(name, str)), "")
    if not isinstance(odd, str):
        return f"has an attribute whose name is a {type(odd).__name__}"
    for name, usual in _BLANK.items():
        if usual is not None and not isinstance(own.get(name), type(usual)):
            return f"lacks {name}" if name not in own else f"has a {type(own[name]).__name__} for {name}"
    for name, kind in _TABLES.items():
        for key, value in own[name].items():
            if not isinstance(key, str) or not (value is None or isinstance(value, kind)):
                return f"holds {str(key)[:50]!r} of type {type(value).__name__} in {name}"
    taken = [n for n in own if n not in _BLANK and (callable(getattr(nn.Module, n, None)) or n.startswith("__"))]
    if methods and (taken or "_compiled_call_impl" in own):
        return f"has an attribute that takes the place of its method {(*taken, '_compiled_call_impl')[0]!r}"
    return None


def _count(path: Path, root: Any, counts: dict[int, tuple[int, int]]) -> None:
    """Depth and number of what `root` unfolds to, by `id`, where nothing is walked twice."""
    inside: Callable[[Any], Iterable[Any]] = _children if isinstance(root, nn.Module) else _nested
    waiting: list[tuple[Any, bool]] = [(root, False)]
    entered: set[int] = set()
    while waiting:
        value, done = waiting.pop()
        if id(value) in counts:
            continue
        if not done and id(value) in entered:
            raise ModelError(f"{path}: holds a {type(value).__name__} that contains itself; it is not read")
        below = tuple(inside(value))
        if not done:
            entered.add(id(value))
            waiting += [(value, True), *((part, False) for part in below)]
            continue
        depth = 1 + max((counts[id(part)][0] for part in below), default=0)
        number = 1 + sum(counts[id(part)][1] for part in below)
        if depth > _DEPTH or number > _COUNT:
            raise ModelError(
                f"{path}: is not read: a {type(value).__name__} in it is nested over {_DEPTH} deep or unfolds to over {_COUNT} items"
            )
        counts[id(value)] = depth, number


def _children(module: nn.Module) -> Iterable[nn.Module]:
    return [child for child in module._modules.values() if child is not None]


def _nested(value: Any) -> Iterable[Any]:
    return [part for part in _items(value) if isinstance(part, _CONTAINERS)]


def _check_sizes(path: Path, reached: Iterable[Any]) -> None:
    """A view may claim far more elements than it has storage for; copying it would fill the memory."""
    total = sum(_bytes(x) for x in reached)
    size = path.stat().st_size
    if total > _UNFOLDING * size + _ROOM:
        raise ModelError(f"{path}: its tensors claim {total} bytes, the file has {size}; it is not read")


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, bytearray) else 0
