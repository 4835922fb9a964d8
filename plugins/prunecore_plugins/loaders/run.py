"""`run:DIR`: the network of an earlier run, so that runs chain."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

import prunecore
from prunecore.api import load_original, original_of
from prunecore.surgery import load_recipe

if TYPE_CHECKING:
    from prunecore.types import LoadedModel


class RunLoader:
    """Recipes compose, so the result is relative to the original class; `size_total` too."""

    class Options(BaseModel):
        """source: the directory of a finished run."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: Path

    def __init__(self, options: Options) -> None:
        self._directory = options.source

    @prunecore.hookimpl
    def prune_load_model(self) -> LoadedModel:
        result = self._directory / "result.json"
        if not result.is_file():
            raise prunecore.ConfigError(
                f"run:{self._directory}: no result.json there; give the directory of a finished run"
            )
        facts = json.loads(result.read_text(encoding="utf-8"))
        loaded = load_original(self._directory)
        whole = {"macs": facts["macs"]["before"], "params": facts["params"]["before"]}
        return dataclasses.replace(
            loaded,
            model=prunecore.load(self._directory),
            provenance={
                **loaded.provenance,
                "run": str(self._directory),
                "original": facts["provenance"].get("original", whole),
            },
            pretrained=True,
            recipe=load_recipe(self._directory / "recipe.json"),
            rebuild=lambda: original_of(loaded),
        )
