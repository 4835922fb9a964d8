"""Load a network pruned by prunecore with nothing but torch, safetensors and the class of the ORIGINAL network.

    model = load_pruned(torchvision.models.resnet18(), "run/recipe.json", "run/model.safetensors")

Copy this file into your project: it is all that a pruned network needs.
"""

import hashlib
import json

import torch
from safetensors.torch import load_file


def load_pruned(model, recipe_path, weights_path):
    """Cut `model` (a fresh network of the original class) as the recipe says, in place, and load the pruned weights."""
    with open(recipe_path, encoding="utf-8") as file:
        recipe = json.load(file)
    if (recipe.pop("format", None), recipe.pop("version", None)) != ("prunecore-recipe", 1):
        raise ValueError(f"{recipe_path}: not a recipe of version 1")
    digest = recipe.pop("sha256", None)
    if hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest() != digest:
        raise ValueError(f"{recipe_path}: damaged or changed")

    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    modules = dict(model.named_modules())
    for shape in recipe["shapes"]:
        got = tuple(tensors[shape["tensor"]].shape) if shape["tensor"] in tensors else None
        if got != tuple(shape["before"]):
            raise ValueError(f"{shape['tensor']}: got shape {got}, expected {shape['before']}: not the original class")
    for cut in recipe["slices"]:
        tensor = tensors[cut["tensor"]]
        tensor.data = tensor.data.index_select(cut["dim"], torch.tensor(cut["kept"], device=tensor.device))
    for edit in recipe["values"]:
        data = tensors[edit["tensor"]].data
        index = range(data.shape[edit["dim"]]) if edit["index"] is None else edit["index"]
        index = torch.tensor(list(index), device=data.device)
        data.index_copy_(edit["dim"], index, data.index_select(edit["dim"], index) * edit["factor"])
    for edit in recipe["attributes"]:  # in_channels, num_features, normalized_shape ...
        new = tuple(edit["new"]) if isinstance(edit["new"], list) else edit["new"]
        setattr(modules[edit["module"]], edit["attribute"], new)
    model.load_state_dict(load_file(weights_path), strict=True)
    return model
