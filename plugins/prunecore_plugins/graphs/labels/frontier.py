"""What only shows where Python calls torch, before the dispatcher sees it: the numbers that the code gives, and exits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prunecore_plugins.graphs.labels.numbers import Scale
from prunecore_plugins.graphs.labels.scales import as_float, carried, scale_of

if TYPE_CHECKING:
    from prunecore_plugins.graphs.labels.trace import Trace


@dataclass(frozen=True)
class Given:
    """The numbers of one call of Python code, as far as rules ask for them.

    shape: sizes of the result (-1: whatever is left). sizes: of the pieces of a split. bounds: dim -> start and end of a
    slice, in the order of the slices. groups: of a convolution. scale: a tensor is multiplied by a number made of a width.
    """

    shape: tuple[int, ...] | None = None
    sizes: int | tuple[int, ...] | None = None
    bounds: tuple[tuple[int, Any, Any], ...] = ()
    groups: int | None = None
    scale: bool = False


NOTHING = Given()

# beyond these, nobody sees what happens to the values
_EXITS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr)


class Frontier(TorchFunctionMode):
    """Sizes become numbers that remember their dim; numbers that come back are shown to the rules."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SIZES:
            return self._size(func(*args, **kwargs), args, kwargs)
        made = carried(func, args, kwargs)
        if made is not None:
            return made
        if func is F.scaled_dot_product_attention:
            self._attention(args, kwargs)
        elif func in _PRODUCTS and len(args) == 2 and any(scale_of(a) is not None for a in args):
            self._scaled(args, -1.0 if func in _QUOTIENTS else 1.0)
            return self._giving(Given(scale=True), func, args, kwargs)
        elif func in _NORMS:
            self._trace.normalised(args[0], args[1] if len(args) > 1 else kwargs["normalized_shape"])
        elif func in _EXITS:
            self._trace.freeze_all(args[0], f"values leave PyTorch by Tensor.{func.__name__}()")
        else:
            self._dropped(func, (*args, *kwargs.values()))
        reader = _READERS.get(func)
        if reader is None:
            if func in _COMPOSED:
                with self:
                    return _COMPOSED[func](*args, **kwargs)
            return func(*args, **kwargs)
        given = reader(args, kwargs)
        if func in _LIKE:
            other = args[1] if len(args) > 1 else kwargs["other"]
            given = Given(shape=tuple(self._size(other.shape, (other,), {})))
        return self._giving(given, func, args, kwargs)

    def _giving(self, given: Given, func: Any, args: Any, kwargs: Any) -> Any:
        self._trace.given = given
        try:
            return func(*args, **kwargs)
        finally:
            self._trace.given = NOTHING

    def _attention(self, args: Any, kwargs: Any) -> None:
        """Attention scales by `width ** -0.5` unless it is told otherwise."""
        query = args[0] if args else kwargs["query"]
        key = args[1] if len(args) > 1 else kwargs["key"]
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        # a bias of positions that the query makes must not be scaled with it: then the key is
        sides = (key, query) if self._trace.shares(mask, query) else (query, key)
        scale = scale_of(kwargs.get("scale"))
        if scale is not None:
            self._trace.scaled(sides[0], scale.number, scale.power, other=sides[1])
        elif kwargs.get("scale") is None:
            width = self._trace.number(query, query.dim() - 1, query.shape[-1])
            self._trace.scaled(sides[0], width, -0.5, other=sides[1])

    def _scaled(self, args: Any, sign: float) -> None:
        """`q * head_dim ** -0.5`"""
        left, right = (scale_of(a) for a in args)
        if right is not None and left is None:
            self._trace.scaled(args[0], right.number, sign * right.power)
        elif left is not None and right is None and sign > 0:
            self._trace.scaled(args[1], left.number, left.power)
        else:  # a factor times a factor, or divided by values
            for scale in (left, right):
                if scale is not None:
                    scale.dropped()

    @staticmethod
    def _dropped(func: Any, values: Any) -> None:
        """Factors, and numbers that are added to values, go where nobody follows them."""
        for value in values:
            scale = scale_of(value)
            if scale is not None and (func in _ADDED or isinstance(value, (Scale, Tensor))):
                scale.dropped()

    def _size(self, found: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        if isinstance(found, int):
            dim = args[1] if len(args) > 1 else kwargs["dim"]
            return self._trace.number(tensor, dim % tensor.dim(), found)
        if not self._trace.info(tensor).layers:
            return found
        return torch.Size([self._trace.number(tensor, d, n) for d, n in enumerate(found)])


# ---------------------------------------------------------------- torch's own code that reckons with sizes


def _opened(function: Any) -> Any:
    """`function`, written in Python, without its own dispatch: what it calls comes by here one by one."""
    own = {"has_torch_function": lambda _: False, "float": lambda n: n if isinstance(n, float) else as_float(n)}
    return FunctionType(function.__code__, {**function.__globals__, **own}, None, function.__defaults__)


_COMPOSED = {F.multi_head_attention_forward: _opened(F.multi_head_attention_forward)}


# ---------------------------------------------------------------- one reader a kind of call

Reader = Callable[[Any, Any], Given]


def _numbers(values: Sequence[Any]) -> tuple[int, ...] | None:
    """`view(2, 3)` or `view((2, 3))`; None for anything else (a dtype)."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = values[0]
    return tuple(values) if all(isinstance(v, int) and not isinstance(v, bool) for v in values) else None


def _shape(args: Any, kwargs: Any) -> Given:
    given = args[1:] or [kwargs.get("shape", kwargs.get("size", ()))]
    return Given(shape=_numbers(given))


def _made(args: Any, kwargs: Any) -> Given:
    """`torch.zeros(2, 3)`, `x.new_zeros((2, 3))`, `torch.full((2, 3), 1.0)`."""
    given = args[1:] if args and isinstance(args[0], Tensor) else args
    if given and isinstance(given[0], (tuple, list)):
        given = given[:1]
    return Given(shape=_numbers(given or (kwargs.get("size", ()),)))


def _unflatten(args: Any, kwargs: Any) -> Given:
    tensor = args[0]
    dim, sizes = (*args[1:], *kwargs.values())[:2]
    if not isinstance(dim, int):
        return NOTHING
    dim %= tensor.dim()
    around = [-1] * (tensor.dim() - 1)
    return Given(shape=(*around[:dim], *sizes, *around[dim:]))


def _split(args: Any, kwargs: Any) -> Given:
    sizes = args[1] if len(args) > 1 else next((kwargs[k] for k in kwargs if k.startswith(("split", "indices"))), None)
    return Given(sizes=tuple(sizes) if isinstance(sizes, (tuple, list)) else sizes)


def _items(args: Any, kwargs: Any) -> Given:
    """`x[:, :c // 2]`: which dim of the result each slice is of."""
    tensor, index = args[0], args[1]
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, (Tensor, list)) for i in items):
        return NOTHING
    used = sum(i is not None and i is not Ellipsis for i in items)
    bounds, dim = [], 0
    for item in items:
        if item is Ellipsis:
            dim += tensor.dim() - used
        elif isinstance(item, slice):
            bounds.append((dim, item.start, item.stop))
            dim += 1
        elif item is None:
            dim += 1
    return Given(bounds=tuple(bounds))


def _narrow(args: Any, kwargs: Any) -> Given:
    given = dict(zip(("input", "dim", "start", "length"), args, strict=False)) | kwargs
    start, length = given["start"], given["length"]
    if not isinstance(start, int):
        return NOTHING
    return Given(bounds=((given["dim"] % args[0].dim(), start, start + length),))


def _groups(args: Any, kwargs: Any) -> Given:
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    return Given(groups=groups)


_NORMS = {F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm}
_LIKE = {Tensor.expand_as, Tensor.view_as, Tensor.reshape_as}
_QUOTIENTS = {Tensor.div, Tensor.__truediv__, torch.div, torch.true_divide, Tensor.__itruediv__, Tensor.div_}
_ADDED = {
    Tensor.add, Tensor.__add__, Tensor.__radd__, torch.add, Tensor.add_, Tensor.__iadd__,
    Tensor.sub, Tensor.__sub__, Tensor.__rsub__, torch.sub, Tensor.sub_, Tensor.__isub__,
    Tensor.__rdiv__, Tensor.__rtruediv__, torch.pow, Tensor.pow, Tensor.__pow__, Tensor.__rpow__,
}  # fmt: skip
_PRODUCTS = {Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul, Tensor.__imul__, Tensor.mul_, *_QUOTIENTS}
_SIZES = {Tensor.shape.__get__, Tensor.size}  # type: ignore[attr-defined]
_READERS: dict[Any, Reader] = {
    **dict.fromkeys(
        (Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand, torch.broadcast_to, Tensor.broadcast_to), _shape
    ),
    **dict.fromkeys((*_LIKE, Tensor.repeat, Tensor.tile, torch.tile), _shape),
    **dict.fromkeys((torch.zeros, torch.ones, torch.empty, torch.full), _made),
    **dict.fromkeys((Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full), _made),
    **dict.fromkeys((Tensor.unflatten, torch.unflatten), _unflatten),
    **dict.fromkeys((torch.split, Tensor.split, torch.split_with_sizes, Tensor.split_with_sizes), _split),
    Tensor.__getitem__: _items,
    **dict.fromkeys((torch.narrow, Tensor.narrow), _narrow),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _groups),
}
