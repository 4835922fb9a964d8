"""The operator calls of one forward, written down so that each can be made again alone, at other sizes.

A call is a *form* (operator, dtypes, memory orders, every argument that is no size) and its *sizes*: all dims of its tensors
and all integers among its arguments, in order. Calls of one form and equal sizes take equally long, wherever they stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from prunecore.measure.counter import module_stack, quiet
from prunecore.types import ExampleInputs

Sizes = tuple[int, ...]

FILLED = 0.75  # a value that operators without weights neither blow up nor let vanish


@dataclass(frozen=True)
class _Dims:
    """A tensor among the arguments. start, stop: where its dims are among the sizes. order: its dims from the widest
    stride to the narrowest."""

    start: int
    stop: int
    dtype: torch.dtype
    order: tuple[int, ...]
    weight: bool


@dataclass(frozen=True)
class _At:
    """An integer among the arguments: its place among the sizes."""

    index: int


@dataclass(frozen=True, eq=False)
class Form:
    """An operator with its arguments, in which `_Dims` and `_At` stand for what depends on the sizes. Equal by `key`."""

    operator: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    key: str

    def bytes(self, sizes: Sizes) -> int:
        """What the arguments of a replay at `sizes` take."""
        found = tree_leaves((self.args, self.kwargs), is_leaf=_stands_for)
        return sum(math.prod(sizes[d.start : d.stop]) * d.dtype.itemsize for d in found if isinstance(d, _Dims))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self.key == other.key


@dataclass(frozen=True)
class OpCall:
    """One call of a forward. module: path of the innermost module that made it ("" for the network itself)."""

    module: str
    form: Form
    sizes: Sizes

    @property
    def name(self) -> str:
        """As users read it: `layer1.0.conv1 (convolution)`."""
        operator = str(self.form.operator).removeprefix("aten.").partition(".")[0]
        return f"{self.module or 'the network itself'} ({operator})"


def record_calls(model: nn.Module, inputs: ExampleInputs) -> tuple[OpCall, ...]:
    """Every operator call of one forward in eval mode that does work: views are left out. The model is left as it was."""
    args, kwargs = tree_map_only(Tensor, torch.clone, (tuple(inputs.args), dict(inputs.kwargs)))
    weights = {storage_of(t) for t in (*model.parameters(), *model.buffers())}
    with quiet(model), module_stack(model) as stack, _Recorder(stack, weights) as recorder:
        model(*args, **kwargs)
    return tuple(recorder.calls)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, stack: Sequence[str], weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stack = stack
        self._weights = weights
        self.calls: list[OpCall] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not _is_view(func):
            self.calls.append(_written(func, args, given, self._stack[-1], self._weights))
        return func(*args, **given)


def _is_view(func: Any) -> bool:
    """Whether the operator only gives another view of its argument: it takes no time that depends on sizes."""
    aliases = [r.alias_info for r in func._schema.returns]
    return any(a is not None and not a.is_write for a in aliases)


def _written(func: Any, args: Any, kwargs: Any, module: str, weights: set[int]) -> OpCall:
    sizes: list[int] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            start = len(sizes)
            sizes.extend(int(n) for n in value.shape)
            return _Dims(start, len(sizes), value.dtype, _order(value), storage_of(value) in weights)
        if type(value) is int:
            sizes.append(value)
            return _At(len(sizes) - 1)
        return value

    made, named = tree_map(leaf, (tuple(args), kwargs))
    # what a factor is does not matter for the time that it takes, and it may follow a width
    unvalued = tree_map(lambda x: "float" if isinstance(x, float) else x, (made, named), is_leaf=_stands_for)
    return OpCall(module, Form(func, made, named, f"{func} {unvalued}"), tuple(sizes))


def _order(tensor: Tensor) -> tuple[int, ...]:
    """Dims from the widest stride to the narrowest; where dims of size 1 leave it open, the plain one."""
    if tensor.is_contiguous():
        return tuple(range(tensor.ndim))
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda d: (-strides[d], d)))


def storage_of(tensor: Tensor) -> int:
    """The identity of a tensor's storage, not its address: meta tensors have none."""
    return int(tensor.untyped_storage()._cdata)


# ---------------------------------------------------------------- made again


@dataclass(frozen=True, eq=False)
class Replay:
    """A call with arguments of its own. refresh(): write its inputs, as the layer before it does."""

    call: Callable[[], Any]
    refresh: Callable[[], None]


def replay_of(form: Form, sizes: Sizes, device: torch.device) -> Replay:
    """`form` at `sizes` on `device`: positive floats near 1, integers 0. Raises what the operator raises."""
    written: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, _Dims):
            tensor = _tensor(sizes[value.start : value.stop], value, device)
            if value.dtype.is_floating_point and not value.weight:
                written.append(tensor)
            return tensor
        return sizes[value.index] if isinstance(value, _At) else value

    args, kwargs = tree_map(leaf, (form.args, dict(form.kwargs)), is_leaf=_stands_for)

    def refresh() -> None:
        for tensor in written:
            tensor.fill_(FILLED)

    return Replay(lambda: form.operator(*args, **kwargs), refresh)


def _stands_for(value: Any) -> bool:
    return isinstance(value, (_Dims, _At))


def _tensor(shape: Sizes, dims: _Dims, device: torch.device) -> Tensor:
    ordered = [shape[d] for d in dims.order]
    if dims.dtype.is_floating_point or dims.dtype.is_complex:
        flat = torch.rand(math.prod(ordered), device=device).add_(0.5).to(dims.dtype).reshape(ordered)
    else:
        flat = torch.zeros(ordered, dtype=dims.dtype, device=device)
    back = sorted(range(len(ordered)), key=lambda i: dims.order[i])
    return flat.permute(back)
