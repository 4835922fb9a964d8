"""What only shows where Python calls torch, before the dispatcher sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from prunecore_plugins.graphs.labels.trace import Trace

# beyond these, nobody sees what happens to the values
_EXITS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr)


class Frontier(TorchFunctionMode):
    """Freezes what leaves torch, and query and key where attention's scale would follow the width that is left."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None:
            for tensor in _first_two(args, kwargs):
                self._trace.freeze_last(tensor, "the scale of attention follows the width of a head")
        elif func in _EXITS:
            self._trace.freeze_all(args[0], f"values leave PyTorch by Tensor.{func.__name__}()")
        return func(*args, **kwargs)


def _first_two(args: Any, kwargs: Any) -> Iterator[Tensor]:
    yield from args[:2]
    yield from (kwargs[k] for k in ("query", "key") if k in kwargs)
