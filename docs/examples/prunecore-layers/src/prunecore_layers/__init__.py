"""A loader for prunecore, `layers:net.json`: a network that is a list of layers in JSON, with its weights beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

import prunecore
from prunecore.files import write_text, write_whole
from prunecore.loading import Trust, TrustOptions, example_inputs, load_weights

from .description import Description

RESULT = "layers.json"


class LayersLoader:
    """Reads `net.json` and `net.safetensors`; a run writes the pruned network as such a pair."""

    class Options(TrustOptions):
        """source: the description. weights: default: the file of its name that ends in .safetensors, where there is one."""

        source: Path
        weights: Path | None = None

    def __init__(self, options: Options) -> None:
        self._options = options

    @prunecore.hookimpl
    def prune_load_model(self) -> prunecore.LoadedModel:
        source = self._options.source
        description = self._description()
        model = description.network(self._options.trust(source))
        weights = self._weights()
        if weights is not None:
            load_weights(model, weights)
        return prunecore.LoadedModel(
            model.eval(),
            example_inputs([1, *description.input]),
            provenance={"spec": f"layers:{source}", "weights": None if weights is None else str(weights)},
            pretrained=weights is not None,
        )

    @prunecore.hookimpl
    def prune_save_model(self, pruned: nn.Module, result: Mapping[str, Any], directory: Path) -> Path:
        found = {key: result[key] for key in ("size", "val_accuracy")}
        description = self._description().resized(pruned).model_copy(update={"pruned": found})
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in pruned.state_dict().items()}
        path = directory / RESULT
        write_whole(path.with_suffix(".safetensors"), lambda file: file.write(save(tensors)))
        write_text(path, description.model_dump_json(indent=2, exclude_none=True) + "\n")
        return path

    def _description(self) -> Description:
        source = self._options.source
        if not source.is_file():
            raise prunecore.ConfigError(f"layers:{source}: there is no such file; give the description of a network")
        return Description.parse(source.read_text(encoding="utf-8"), source)

    def _weights(self) -> Path | None:
        beside = self._options.source.with_suffix(".safetensors")
        return self._options.weights or (beside if beside.is_file() else None)


class LayersBuilder:
    """`algname: layers` in the `interface.pt` of an architecture search: `nas` holds the description as JSON in `layers`."""

    @prunecore.hookimpl
    def prune_nas_builders(self) -> Mapping[str, Callable[..., nn.Module]]:
        return {"layers": build}


def build(interface: Mapping[str, Any], *, num_classes: int | None, trust: Trust) -> nn.Module:
    """The unpruned network; the loader of the file loads `params` into it."""
    text = interface["nas"].get("layers")
    if not isinstance(text, str):
        raise prunecore.ModelError(f"nas.layers: expected JSON text, got {type(text).__name__}")
    return Description.parse(text, "nas.layers").network(trust)
