"""Factors made of a width: `math.sqrt(head_dim)`, `head_dim ** -0.5`, `torch.sqrt(torch.tensor(channels))`.

What is multiplied by one changes when the width does, and its weights have to make up for it. Where a factor goes anywhere else,
the width may not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunecore_plugins.graphs.labels.numbers import Number, Scale

_KEY = "_prunecore_scale"


def scale_of(value: Any) -> Scale | None:
    """The factor that `value` is: a scale, a number of the code, a tensor made of one."""
    if isinstance(value, Scale):
        return value
    if isinstance(value, Number):
        return Scale(int.__float__(value), value, 1.0)
    found = value.__dict__.get(_KEY) if isinstance(value, Tensor) else None
    return found if isinstance(found, Scale) else None


def as_float(value: Any) -> float:
    """`float(value)` that remembers a number."""
    return scale_of(value) or float(value)


def carried(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """The result of a function that makes a factor a tensor, or a tensor another factor; None of any other function."""
    if not args or (scale := scale_of(args[0])) is None:
        return None
    power = _POWERS.get(func)
    if power is None and func in _RAISED and isinstance(args[1], (int, float)):
        power = float(args[1])
    if func in _MAKERS:
        made: Tensor = func(float.__float__(scale) if isinstance(args[0], float) else int(args[0]), *args[1:], **kwargs)
    elif power is not None and isinstance(args[0], Tensor):
        made = func(*args, **kwargs)
        scale = Scale(float.__pow__(float.__float__(scale), power), scale.number, scale.power * power)
    else:
        return None
    made.__dict__[_KEY] = scale
    return made


@contextmanager
def remembered_roots() -> Iterator[None]:
    """`math.sqrt` of a number, and of a factor made of one, is a factor."""
    plain = math.sqrt

    def sqrt(value: Any, /) -> float:
        scale = None if isinstance(value, Tensor) else scale_of(value)
        if scale is None:
            return plain(value)
        return Scale(plain(float.__float__(scale)), scale.number, scale.power / 2)

    math.sqrt = sqrt
    try:
        yield
    finally:
        math.sqrt = plain


_MAKERS = {torch.tensor, torch.as_tensor, torch.scalar_tensor}
_RAISED = {torch.pow, Tensor.pow, Tensor.__pow__}
_POWERS = {
    **dict.fromkeys((torch.sqrt, Tensor.sqrt), 0.5),
    **dict.fromkeys((torch.rsqrt, Tensor.rsqrt), -0.5),
    **dict.fromkeys((torch.reciprocal, Tensor.reciprocal), -1.0),
    **dict.fromkeys(
        (Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.type_as, Tensor.clone, Tensor.detach, Tensor.cpu),
        1.0,
    ),
}
