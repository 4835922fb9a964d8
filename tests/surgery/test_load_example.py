"""The documented loader needs torch, safetensors and the original class only."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunecore.surgery import resize, save_recipe
from tests.surgery.small_nets import Plain, keep, plain_graph

SOURCE = Path(__file__).parents[2] / "docs" / "examples" / "load_pruned.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_pruned", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path, Path]:
    cut, recipe = resize(Plain(), plain_graph(), keep({"conv": [0, 2, 5], "out": [1, 3]}))
    nn.init.normal_(cut.head.weight)
    save_file(cut.state_dict(), tmp_path / "model.safetensors")
    return cut, save_recipe(recipe, tmp_path / "recipe.json"), tmp_path / "model.safetensors"


def test_it_is_short_and_needs_no_prunecore() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 50
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported == {"hashlib", "json", "torch", "safetensors"}


def test_it_rebuilds_the_pruned_network(example: ModuleType, saved: tuple[nn.Module, Path, Path]) -> None:
    cut, recipe, weights = saved
    loaded = example.load_pruned(Plain(), recipe, weights)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.eval()(x), cut.eval()(x))
    assert (loaded.conv.out_channels, loaded.norm.num_features, loaded.head.in_features) == (3, 3, 2)


def test_it_refuses_another_class_and_a_changed_recipe(
    example: ModuleType, saved: tuple[nn.Module, Path, Path]
) -> None:
    _, recipe, weights = saved
    with pytest.raises(ValueError, match="not the original class"):
        example.load_pruned(nn.Linear(2, 2), recipe, weights)
    data = json.loads(recipe.read_text())
    data["slices"][0]["kept"][0] += 1
    recipe.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="damaged or changed"):
        example.load_pruned(Plain(), recipe, weights)
