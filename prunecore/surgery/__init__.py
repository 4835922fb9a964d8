"""Removing channels for real: cut, recipe, certificate."""

from __future__ import annotations

from prunecore.surgery.certificate import certify
from prunecore.surgery.compensate import compensate
from prunecore.surgery.copying import copy_model
from prunecore.surgery.cut import apply_recipe, make_recipe, resize
from prunecore.surgery.layers import layer_attributes
from prunecore.surgery.recipe import compose, load_recipe, recipe_from_dict, recipe_to_dict, save_recipe

__all__ = [
    "apply_recipe",
    "certify",
    "compensate",
    "compose",
    "copy_model",
    "layer_attributes",
    "load_recipe",
    "make_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
    "resize",
    "save_recipe",
]
