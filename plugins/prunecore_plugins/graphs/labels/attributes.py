"""The whole numbers that modules keep: while the network is traced they remember where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from prunecore_plugins.graphs.labels.ledger import Ledger
from prunecore_plugins.graphs.labels.numbers import Attribute, Number

# what torch's own layers keep and user code may read; the layers themselves are set from their tensors
_WIDTHS = frozenset(
    (
        "in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels", "embedding_dim",
        "hidden_size", "input_size", "embed_dim", "d_model", "num_heads", "head_dim", "groups", "normalized_shape",
    )
)  # fmt: skip
_LEAST = 2  # zero and one are no widths that anything could follow
_LONGEST = 64


@contextmanager
def remembered(model: nn.Module, ledger: Ledger) -> Iterator[None]:
    """The whole numbers of all modules, alone or in tuples and lists, are `Number`s; afterwards they are what they were."""
    changed: list[tuple[dict[str, Any], str, Any, Any]] = []
    try:
        for path, module in model.named_modules():
            known = type(module).__module__.startswith("torch.nn.modules")
            for key, value in list(vars(module).items()):
                if known and key not in _WIDTHS:
                    continue
                new = _tagged(value, path, key, ledger)
                if new is not None:
                    vars(module)[key] = new
                    changed.append((vars(module), key, value, new))
        yield
    finally:
        for holder, key, old, new in changed:
            now = holder.get(key)
            if now is new:
                holder[key] = old
            elif isinstance(now, Number):  # the forward counts something
                holder[key] = int(now)


def _tagged(value: Any, path: str, key: str, ledger: Ledger) -> Any:
    if type(value) is int:
        return ledger.attribute(Attribute(path, key, None, value)) if value >= _LEAST else None
    if type(value) in (tuple, list) and 0 < len(value) <= _LONGEST and all(type(v) is int for v in value):
        return type(value)(
            ledger.attribute(Attribute(path, key, i, v)) if v >= _LEAST else v for i, v in enumerate(value)
        )
    return None
