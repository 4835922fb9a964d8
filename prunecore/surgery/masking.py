"""Dead channels carried through a forward: what a removed channel means where zero parameters are not enough.

Beside each tensor travels a mask of its dead elements. Every operation that passes by makes its own mask by the table
of `dead_rules`, dead elements are set to zero after it, and what is summed up over channels (means, norms, softmax,
weight statistics) is restricted to the living ones. The table knows nothing of any graph engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from prunecore.surgery.dead_rules import FACTORIES, RULES, pointwise, tensors_in, unknown
from prunecore.types import Recipe


def dead_elements(tensors: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """For every sliced tensor: a boolean mask of its shape, True where the recipe removes."""
    found: dict[str, Tensor] = {}
    for cut in recipe.slices:
        tensor = tensors[cut.tensor]
        removed = torch.ones(cut.size, dtype=torch.bool, device=tensor.device)
        removed[list(cut.kept)] = False
        removed = removed.view([-1 if d == cut.dim else 1 for d in range(tensor.dim())])
        mask = found.get(cut.tensor)
        found[cut.tensor] = removed.expand(tensor.shape) if mask is None else mask | removed
    return found


class DeadChannels(TorchDispatchMode):
    """Keeps dead elements at zero. `restricted` and `unknown` count operations by name for the certificate's notes."""

    def __init__(self, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.restricted: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self._masks = WeakTensorKeyDictionary()
        for name, mask in dead_elements(tensors, recipe).items():
            self._masks[tensors[name]] = mask

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the default imports the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        base = name.rstrip("_") if name.endswith("_") and not name.endswith("__") else name
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if base in FACTORIES:
            out = func(*args, **kwargs)
            self._keep(out, torch.zeros(out.shape, dtype=torch.bool, device=out.device))
            return out
        if not any(t in self._masks for t in tensors):
            return func(*args, **kwargs)
        bound = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        rule = RULES.get(base) or (pointwise if torch.Tag.pointwise in func.tags else unknown)
        out, masks = rule(self, func, bound)
        for tensor, mask in zip(tensors_in(out), tensors_in(masks), strict=False):
            self._keep(tensor, mask)
        return out

    def mask(self, tensor: Tensor) -> Tensor | None:
        """The dead elements of `tensor`, None where it has none."""
        found: Tensor | None = self._masks.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def dense(self, tensor: Tensor) -> Tensor:
        """The same, all False where there are none."""
        found = self.mask(tensor)
        return torch.zeros((), dtype=torch.bool, device=tensor.device).expand(tensor.shape) if found is None else found

    def _keep(self, tensor: Tensor, mask: Tensor) -> None:
        if tensor.is_floating_point() or tensor.is_complex():
            self._masks[tensor] = mask.expand(tensor.shape)
