"""What an interface file holds, and how a network is made of it and written into it.

Earlier prunings stand in `pruning.summary.resize`, which other tools append to; what such a list cannot say stands under our
own key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunecore import ModelError, Recipe, apply_recipe
from prunecore.files import write_whole
from prunecore.loading import read_pickled

from .names import listed, shown
from .resize import entries_of, rebuild
from .segments import OWN, Segment, check_shapes, digest, mark, remainder, segments_of


@dataclass(frozen=True, eq=False)
class Content:
    """interface: everything, in order. entries: the resize list. segments: what we pruned."""

    path: Path
    interface: Mapping[str, Any]
    nas: Mapping[str, Any]
    params: Mapping[str, Tensor]
    entries: tuple[Any, ...]
    segments: tuple[Segment, ...]

    @property
    def algname(self) -> Any:
        return self.nas.get("algname")


def read(path: Path) -> Content:
    """The content of an interface file. Raises ModelError that names the file and the first fault."""
    found = read_pickled(path)
    try:
        return _content(path, found)
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}") from fault


def rebuilt(unpruned: nn.Module, content: Content) -> nn.Module:
    """The network of the file: every earlier pruning repeated in order, `params` loaded strictly.

    Raises ModelError, with the file's name, where the parts of the file do not fit each other or the network.
    """
    net = unpruned
    try:
        check_shapes(net, content.params, content.segments, len(content.entries))
        for segment in content.segments:
            net = apply_recipe(net, remainder(net, segment.recipe))
        rebuild(net, content.params, content.entries)
        return apply_recipe(net, Recipe())  # refreshes what layers cache of their tensors
    except ModelError as fault:
        raise ModelError(f"{content.path}: {fault}") from fault


def written(
    path: Path,
    content: Content,
    before: nn.Module,
    pruned: nn.Module,
    recipe: Recipe,
    result: Mapping[str, Any],
    *,
    dialect: str,
) -> None:
    """Write the pruned network: the file as it was, with new `params`, entries appended, and our recipe. Plain values only."""
    entries = [*content.entries, *entries_of(before, pruned, dialect=dialect)]
    old = content.interface.get("pruning") or {}
    summary = {
        **(old.get("summary") or {}),
        "size": float(result["size"]),
        "val_accuracy": float(result["val_accuracy"]),
        "resize": entries,
        "time": str(result["time"]),
    }
    pruning = {**old, "is_pruning": True, "summary": summary}
    if remainder(before, recipe) != Recipe():  # so that it is noticed where our key gets lost
        pruning[OWN] = [*old.get(OWN, ()), mark(recipe)]
    segment = Segment(len(content.entries), len(entries), digest(content.nas, entries), recipe)
    changed = {
        "params": OrderedDict((n, v.detach().cpu().clone()) for n, v in pruned.state_dict().items()),
        "pruning": pruning,
        OWN: {"segments": [s.plain() for s in (*content.segments, segment)]},
    }
    kept = [(key, changed.pop(key, value)) for key, value in content.interface.items()]
    write_whole(path, lambda file: torch.save(OrderedDict([*kept, *changed.items()]), file))


def _content(path: Path, found: Any) -> Content:
    if not isinstance(found, Mapping) or not {"nas", "params"} <= set(found):
        raise ModelError(f"expected a mapping with `nas` and `params`, got {_spell(found)}")
    nas, params, pruning = found["nas"], found["params"], found.get("pruning") or {}
    if not isinstance(nas, Mapping):
        raise ModelError(f"nas: expected a mapping with `algname`, got {_spell(nas)}")
    if not isinstance(params, Mapping) or not all(map(_is_parameter, params.items())):
        raise ModelError(f"params: expected tensors by name, got {_spell(params)}")
    summary = pruning.get("summary") or {} if isinstance(pruning, Mapping) else None
    entries = summary.get("resize", ()) if isinstance(summary, Mapping) else None
    if not isinstance(entries, (list, tuple)):
        raise ModelError(f"pruning: expected summary.resize to be a list, got {_spell(pruning)}")
    segments = segments_of(found.get(OWN), pruning.get(OWN, ()), nas, entries)
    return Content(path, found, nas, params, tuple(entries), segments)


def _is_parameter(item: tuple[Any, Any]) -> bool:
    name, value = item
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    return isinstance(name, str) and plain and not value.is_meta


def _spell(value: Any) -> str:
    return f"a mapping with {listed(value) or 'nothing'}" if isinstance(value, Mapping) else shown(value)
