"""`.safetensors` and `recipe.json`: the weights, and how to cut a fresh network of the original class to their shapes."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from prunecore.errors import ModelError
from prunecore.export.checking import TOLERANCE, Exported, compared, reason, remarks, runner, subject_of
from prunecore.files import write_json, write_whole
from prunecore.run.directory import RECIPE, state_of
from prunecore.surgery import apply_recipe, copy_model, recipe_from_dict, recipe_to_dict
from prunecore.types import ExampleInputs, Recipe


def export_safetensors(
    model: nn.Module,
    inputs: ExampleInputs,
    path: Path,
    *,
    original: nn.Module,
    recipe: Recipe,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write the state dict of `model` to `path` and `recipe` to `recipe.json` beside it.

    original: a network of the original class, to which `recipe` is relative; it is cut and given the weights, as a reader
    does (`docs/examples/load_pruned.py`), and compared with `model`. Raises ModelError where that gives another network.
    """
    from safetensors.torch import load, save

    subject = subject_of(model, inputs)
    data, told = save(state_of(subject.model)), recipe_to_dict(recipe)
    rebuilt = apply_recipe(
        copy_model(original).to(subject.device), recipe_from_dict(json.loads(json.dumps(told)))
    ).eval()
    try:
        rebuilt.load_state_dict(load(data))
    except RuntimeError as error:
        raise ModelError(f"the weights do not fit the original class and the recipe: {reason(error)}") from error
    found = compared(subject, runner(rebuilt), subject.sizes, tolerance)
    write_json(path.with_name(RECIPE), told)
    write_whole(path, lambda file: file.write(data))
    how = f"load_pruned(fresh, {RECIPE!r}, {path.name!r}) of docs/examples/load_pruned.py loads them again"
    return Exported(path, found.error, tuple(sorted(subject.sizes)), (how, *remarks(found, tolerance)))
