"""Recipes as files, and composition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecore.errors import ModelError, RunDirectoryError
from prunecore.surgery import (
    apply_recipe,
    compose,
    load_recipe,
    make_recipe,
    recipe_from_dict,
    recipe_to_dict,
    save_recipe,
)
from prunecore.types import AttributeEdit, ChannelGroup, DependencyGraph, Member, Recipe, Slice, ValueEdit, Width
from tests.surgery.small_nets import Plain, graph_of, keep, plain_graph


def _recipe() -> Recipe:
    return make_recipe(Plain(), plain_graph(), keep({"conv": [0, 2, 5], "out": [1, 3]}))


def test_a_recipe_survives_the_file(tmp_path: Path) -> None:
    path = save_recipe(_recipe(), tmp_path / "recipe.json")
    assert load_recipe(path) == _recipe()
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_recipe(Recipe(), tmp_path / "recipe.json")
    old = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunecore.files.os.fsync", full)
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        save_recipe(_recipe(), path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


def _mutations(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [p for key, item in value.items() for p in _mutations(item, (*path, key))]
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in _mutations(item, (*path, i))]
    return [path]


_PLACES = _mutations(recipe_to_dict(_recipe()))


@settings(deadline=None)
@given(
    place=st.sampled_from(_PLACES), value=st.one_of(st.integers(-3, 9), st.text(max_size=3), st.none(), st.booleans())
)
def test_any_change_is_one_clear_error(place: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps(recipe_to_dict(_recipe())))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    if inner[place[-1]] == value and type(inner[place[-1]]) is type(value):
        return
    inner[place[-1]] = value
    with pytest.raises(ModelError, match=r"^recipe: [^\n]+$"):
        recipe_from_dict(data)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(slices=(Slice("w", 0, 3, (0, 3)),)), "w dim 0: kept positions must be distinct and within 0 … 2"),
        (Recipe(slices=(Slice("w", 0, 3, (0,)),)), "w dim 0: size 3 does not fit its shape None"),
        (Recipe(attributes=(AttributeEdit("m", "a", 1, 2),) * 2), "attribute given twice: m.a"),
    ],
)
def test_contradictions_are_refused_though_the_digest_fits(recipe: Recipe, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        recipe_from_dict(recipe_to_dict(recipe))


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_recipe(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"format": "prunecore-')
    with pytest.raises(ModelError, match="cannot be read"):
        load_recipe(tmp_path / "half.json")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ModelError, match="no recipe of prunecore"):
        load_recipe(tmp_path / "other.json")
    with pytest.raises(ModelError, match="version 2, this prunecore reads version 1"):
        recipe_from_dict(recipe_to_dict(Recipe()) | {"version": 2})


# ---------------------------------------------------------------- composition


def _shrunk(graph: DependencyGraph, counts: dict[str, int]) -> DependencyGraph:
    groups = []
    for group in graph.groups:
        count = counts.get(group.name, group.channels)
        members = tuple(Member(m.tensor, m.dim, m.role, np.arange(count)[:, None]) for m in group.members)
        groups.append(ChannelGroup(group.name, count, members, frozen=group.frozen))
    return graph_of(*groups)


_subset = st.sets(st.integers(0, 5), min_size=1).map(sorted)


@settings(max_examples=20, deadline=None)
@given(first=_subset, out=st.sets(st.integers(0, 3), min_size=1).map(sorted), data=st.data())
def test_composed_recipes_do_what_one_after_the_other_does(
    first: list[int], out: list[int], data: st.DataObject
) -> None:
    model = Plain()
    one = make_recipe(model, plain_graph(), keep({"conv": first}))
    middle = apply_recipe(model, one)
    second = data.draw(st.sets(st.integers(0, len(first) - 1), min_size=1).map(sorted))
    two = make_recipe(middle, _shrunk(plain_graph(), {"conv": len(first)}), keep({"conv": second, "out": out}))
    both = compose(one, two)
    expected, got = apply_recipe(middle, two), apply_recipe(model, both)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in got.state_dict().items())
    assert got.norm.num_features == expected.norm.num_features == len(second)
    assert recipe_from_dict(recipe_to_dict(both)) == both
    assert compose(Recipe(), one) == compose(one, Recipe()) == one


def test_composition_merges_widths_edits_and_values() -> None:
    one = Recipe(
        slices=(Slice("w", 0, 6, (0, 2, 4, 5)),),
        attributes=(AttributeEdit("m", "a", 6, 4), AttributeEdit("m", "b", 1, 2)),
        values=(ValueEdit("w", 2.0, 0, (1, 3)),),
        widths=(Width("g", 6, 4),),
    )
    two = Recipe(
        slices=(Slice("w", 0, 4, (1, 2)),),
        attributes=(AttributeEdit("m", "a", 4, 2), AttributeEdit("m", "b", 2, 1)),
        widths=(Width("g", 4, 2), Width("h", 3, 1)),
    )
    both = compose(one, two)
    assert both.slices == (Slice("w", 0, 6, (2, 4)),)
    assert both.attributes == (AttributeEdit("m", "a", 6, 2),)
    assert both.values == (ValueEdit("w", 2.0, 0, (0,)),)
    assert both.widths == (Width("g", 6, 2), Width("h", 3, 1))


def test_recipes_that_do_not_follow_each_other() -> None:
    one = Recipe(slices=(Slice("w", 0, 6, (0, 2)),), attributes=(AttributeEdit("m", "a", 6, 2),))
    with pytest.raises(ModelError, match="w dim 0 ends with 2, the next starts with 6"):
        compose(one, one)
    with pytest.raises(ModelError, match=r"m\.a ends with 2, the next starts with 5"):
        compose(one, Recipe(attributes=(AttributeEdit("m", "a", 5, 1),)))
