"""Our own part of an interface file: the recipe of each of our prunings, and the part of the resize list that says the same.

A digest of all that a pruning stands on lets a changed list be noticed; other tools may append to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunecore import ModelError, Recipe
from prunecore.surgery import recipe_from_dict, recipe_to_dict

from .names import shown
from .numbers import Shape, settled

OWN = "prunecore"
_FIELDS = {"start": int, "end": int, "digest": str, "recipe": str}


@dataclass(frozen=True)
class Segment:
    """A recipe and the entries `start` … `end` of the resize list that say the same. digest: of `nas` and all entries before `end`."""

    start: int
    end: int
    digest: str
    recipe: Recipe

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "recipe": json.dumps(recipe_to_dict(self.recipe))}


def segments_of(own: Any, needed: Any, nas: Mapping[str, Any], entries: Sequence[Any]) -> tuple[Segment, ...]:
    """What stands under our key. needed: marks of the recipes without which the network cannot be rebuilt.

    Raises ModelError where it is damaged, or where `nas` or the list was changed.
    """
    given = () if own is None else own.get("segments") if isinstance(own, Mapping) else None
    if not isinstance(given, (list, tuple)) or (own is not None and not given):
        raise ModelError(f"{OWN}: expected segments, got {shown(own)}; take the original file")
    found = tuple(_segment(item) for item in given)
    ends = [0, *(s.end for s in found)]
    if any(not a <= s.start <= s.end <= len(entries) for a, s in zip(ends, found, strict=False)):
        raise ModelError(f"{OWN}: its segments do not fit a list of {len(entries)} entries; take the original file")
    if any(s.digest != digest(nas, entries[: s.end]) for s in found):
        raise ModelError("nas or the resize list was changed after the network was pruned; take the original file")
    if not isinstance(needed, (list, tuple)) or (needed and not {*map(str, needed)} <= {mark(s.recipe) for s in found}):
        raise ModelError(f"{OWN}: a recipe is gone that the network cannot be rebuilt without; take the original file")
    return found


def digest(nas: Mapping[str, Any], entries: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([_canonical(nas), _canonical(entries)]).encode()).hexdigest()


def mark(recipe: Recipe) -> str:
    """By what one recipe is told from another."""
    return str(recipe_to_dict(recipe)["sha256"])


def remainder(net: nn.Module, recipe: Recipe) -> Recipe:
    """The part of a recipe for `net` that neither the resize list nor `params` can say.

    Numbers that the code keeps (heads, groups of norms, widths in views), and buffers that are not in `params`.
    """
    modules, saved = dict(net.named_modules()), nn.Module.state_dict(net).keys()
    numbers = {name: settled(name, modules[name]) for name in {e.module for e in recipe.attributes} & modules.keys()}
    return Recipe(
        attributes=tuple(e for e in recipe.attributes if e.attribute not in numbers.get(e.module, ())),
        slices=tuple(s for s in recipe.slices if s.tensor not in saved),
        values=tuple(v for v in recipe.values if v.tensor not in saved),
        shapes=tuple(s for s in recipe.shapes if s.tensor not in saved),
    )


def check_shapes(net: nn.Module, params: Mapping[str, Tensor], segments: Sequence[Segment], entries: int) -> None:
    """ModelError where a tensor has not the shape that the recipes end with; what other tools did is not known.

    net: unpruned. entries: how many the whole list has.
    """
    known: dict[str, Shape] = {name: tuple(t.shape) for name, t in net.named_parameters()}
    end = 0
    for segment in segments:
        known = {} if segment.start != end else known
        known |= {form.tensor: form.after for form in segment.recipe.shapes}
        end = segment.end
    for name, shape in known.items() if segments and end == entries else ():
        if name in params and params[name].shape != shape:
            raise ModelError(
                f"params: {shown(name)} has shape {tuple(params[name].shape)}, the recipe ends with {shape}"
            )


def _segment(item: Any) -> Segment:
    if not isinstance(item, Mapping) or {k: type(v) for k, v in item.items()} != _FIELDS:
        raise ModelError(f"{OWN}: a segment is damaged, got {shown(item)}; take the original file")
    try:
        recipe = recipe_from_dict(json.loads(item["recipe"]))
    except (ValueError, RecursionError) as fault:
        raise ModelError(f"{OWN}: a recipe is damaged ({shown(str(fault))}); take the original file") from fault
    return Segment(item["start"], item["end"], item["digest"], recipe)


def _canonical(value: Any) -> Any:
    """The same for equal values, whatever the order of keys and the process; other for values that differ in type only."""
    if isinstance(value, Mapping):
        return {"mapping": sorted(([_canonical(k), _canonical(v)] for k, v in value.items()), key=repr)}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((_canonical(item) for item in value), key=repr)}
    if isinstance(value, Tensor):
        return {"tensor": str(value.dtype), "values": _canonical(value.tolist())}
    return f"{type(value).__name__} {value!r}"
