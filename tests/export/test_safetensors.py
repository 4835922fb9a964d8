from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import prunecore
from prunecore.errors import ModelError
from prunecore.export import export_safetensors
from prunecore.types import Recipe
from tests.export.export_nets import IMAGE, Conv
from tests.surgery.test_load_example import example  # noqa: F401


def test_the_pair_gives_the_network_again_with_and_without_prunecore(
    tmp_path: Path,
    example: object,  # noqa: F811
) -> None:
    original = Conv()
    pruned = prunecore.prune(original, IMAGE, reduce=0.4)
    nn.init.normal_(pruned.model.head.weight)  # type: ignore[union-attr, arg-type]
    path = tmp_path / "model.safetensors"
    found = export_safetensors(pruned.model, IMAGE, path, original=original, recipe=pruned.recipe)
    assert (found.max_abs_error, found.batch_sizes) == (0.0, (1, 2, 3))
    assert found.notes[0].startswith("load_pruned(fresh, 'recipe.json', 'model.safetensors')")
    image = torch.randn(2, 3, 8, 8)
    expected = pruned.model.eval()(image)
    assert torch.equal(prunecore.load(tmp_path, Conv())(image), expected)
    without = example.load_pruned(Conv(), tmp_path / "recipe.json", path)  # type: ignore[attr-defined]
    assert torch.equal(without.eval()(image), expected)
    assert json.loads((tmp_path / "recipe.json").read_text())["format"] == "prunecore-recipe"


def test_a_recipe_that_gives_another_network_is_refused_and_nothing_written(tmp_path: Path) -> None:
    original = Conv()
    pruned = prunecore.prune(original, IMAGE, reduce=0.4)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="the weights do not fit the original class and the recipe"):
        export_safetensors(pruned.model, IMAGE, path, original=original, recipe=Recipe())

    class Other(Conv):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(image)

    with pytest.raises(ModelError, match="max abs difference"):
        export_safetensors(pruned.model, IMAGE, path, original=Other(), recipe=pruned.recipe)
    assert list(tmp_path.iterdir()) == []
