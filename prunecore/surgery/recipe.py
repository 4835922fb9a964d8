"""Recipes as JSON, and one after the other.

The file holds a digest of its content: any change to it is an error, never a silently different network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunecore.errors import ModelError
from prunecore.files import write_text
from prunecore.types import AttributeEdit, Recipe, Slice, TensorShape, ValueEdit, Width

FORMAT = "prunecore-recipe"
VERSION = 1
_FIELDS = ("slices", "attributes", "values", "widths", "shapes")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values for JSON: `format`, `version`, `sha256` (of the canonical JSON of the rest) and the recipe's fields."""
    body: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return {"format": FORMAT, "version": VERSION, "sha256": _digest(body), **body}


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """The recipe in `data`. Raises ModelError with the first fault where it is damaged, changed or of another version."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ModelError(f"recipe: the field 'format' must be {FORMAT!r}; this is no recipe of prunecore")
    if type(data.get("version")) is not int or data["version"] != VERSION:  # True == 1
        raise ModelError(
            f"recipe: version {data.get('version')!r}, this prunecore reads version {VERSION}; update prunecore"
        )
    body = {key: value for key, value in data.items() if key not in ("format", "version", "sha256")}
    missing = sorted(set(_FIELDS) - set(body))
    unknown = sorted(set(body) - set(_FIELDS))
    if missing or unknown:
        raise ModelError(f"recipe: missing fields {missing}, unknown fields {unknown}")
    try:
        recipe = TypeAdapter(Recipe).validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"recipe: {place}: {first['msg']}") from error
    if data.get("sha256") != _digest(body):
        raise ModelError(
            "recipe: its content does not match its digest; it was changed or damaged, take the original file"
        )
    _check(recipe)
    return recipe


def save_recipe(recipe: Recipe, path: str | Path) -> Path:
    """Write the recipe as JSON; the file appears whole or not at all."""
    write_text(Path(path), json.dumps(recipe_to_dict(recipe)) + "\n")
    return Path(path)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. Raises ModelError where the file is missing, damaged or changed."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"recipe {path} cannot be read: {error}") from error
    return recipe_from_dict(data)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check(recipe: Recipe) -> None:
    """What types cannot say: positions in range, nothing twice, slices and shapes of one mind."""
    after = {s.tensor: list(s.before) for s in recipe.shapes}
    for cut in recipe.slices:
        if not cut.kept or min(cut.kept) < 0 or max(cut.kept) >= cut.size or len(set(cut.kept)) != len(cut.kept):
            raise ModelError(
                f"recipe: {cut.tensor} dim {cut.dim}: kept positions must be distinct and within 0 … {cut.size - 1}"
            )
        shape = after.get(cut.tensor)
        if shape is None or not 0 <= cut.dim < len(shape) or shape[cut.dim] != cut.size:
            raise ModelError(f"recipe: {cut.tensor} dim {cut.dim}: size {cut.size} does not fit its shape {shape}")
        shape[cut.dim] = len(cut.kept)
    for form in recipe.shapes:
        if tuple(after[form.tensor]) != form.after:
            raise ModelError(
                f"recipe: {form.tensor}: the slices give {tuple(after[form.tensor])}, it says {form.after}"
            )
    for kind, keys in (
        ("slice", [f"{s.tensor} dim {s.dim}" for s in recipe.slices]),
        ("shape", [s.tensor for s in recipe.shapes]),
        ("attribute", [f"{a.module}.{a.attribute}" for a in recipe.attributes]),
    ):
        twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) != len(keys) else []
        if twice:
            raise ModelError(f"recipe: {kind} given twice: {twice[0]}")


# ---------------------------------------------------------------- composition


def compose(first: Recipe, second: Recipe) -> Recipe:
    """One recipe that does `first` and then `second`: relative to the network that `first` starts from.

    Raises ModelError where `second` was not made for the network that `first` ends with.
    """
    if first == Recipe():  # nothing was done yet
        return second
    return Recipe(
        slices=_compose_slices(first, second),
        attributes=_compose_attributes(first, second),
        values=(*_through(first.values, second.slices), *second.values),
        widths=_compose_widths(first, second),
        shapes=_compose_shapes(first, second),
    )


def _compose_slices(first: Recipe, second: Recipe) -> tuple[Slice, ...]:
    found = {(s.tensor, s.dim): s for s in first.slices}
    for cut in second.slices:
        before = found.get((cut.tensor, cut.dim))
        if before is None:
            found[cut.tensor, cut.dim] = cut
            continue
        if cut.size != len(before.kept):
            raise ModelError(
                f"recipes: {cut.tensor} dim {cut.dim} ends with {len(before.kept)}, the next starts with {cut.size}"
            )
        kept = tuple(before.kept[i] for i in cut.kept)
        found[cut.tensor, cut.dim] = Slice(cut.tensor, cut.dim, before.size, kept)
    return tuple(found.values())


def _compose_shapes(first: Recipe, second: Recipe) -> tuple[TensorShape, ...]:
    found = {s.tensor: s for s in first.shapes}
    for form in second.shapes:
        before = found.get(form.tensor)
        if before is not None and before.after != form.before:
            raise ModelError(
                f"recipes: {form.tensor} ends with shape {before.after}, the next starts with {form.before}"
            )
        found[form.tensor] = form if before is None else TensorShape(form.tensor, before.before, form.after)
    return tuple(found.values())


def _compose_attributes(first: Recipe, second: Recipe) -> tuple[AttributeEdit, ...]:
    found = {(a.module, a.attribute): a for a in first.attributes}
    for edit in second.attributes:
        key = (edit.module, edit.attribute)
        before = found.get(key)
        if before is not None and before.new != edit.old:
            raise ModelError(f"recipes: {'.'.join(key)} ends with {before.new}, the next starts with {edit.old}")
        found[key] = edit if before is None else AttributeEdit(*key, before.old, edit.new)
    return tuple(a for a in found.values() if a.old != a.new)


def _compose_widths(first: Recipe, second: Recipe) -> tuple[Width, ...]:
    """Groups are chained by name; where the second trace grouped otherwise, both entries stand."""
    ends = {w.group: w for w in first.widths}
    chained = {
        w.group: Width(w.group, ends[w.group].before, w.after)
        for w in second.widths
        if w.group in ends and ends[w.group].after == w.before
    }
    kept = [chained.get(w.group, w) for w in first.widths]
    return (*kept, *(w for w in second.widths if w.group not in chained))


def _through(values: tuple[ValueEdit, ...], slices: tuple[Slice, ...]) -> tuple[ValueEdit, ...]:
    """Value edits restated for the tensors after `slices`; those of removed positions only are dropped."""
    kept = {(s.tensor, s.dim): s.kept for s in slices}
    found = []
    for edit in values:
        positions = kept.get((edit.tensor, edit.dim))
        if edit.index is None or positions is None:
            found.append(edit)
            continue
        old = set(edit.index)
        index = tuple(i for i, position in enumerate(positions) if position in old)
        if index:
            found.append(ValueEdit(edit.tensor, edit.factor, edit.dim, index))
    return tuple(found)
