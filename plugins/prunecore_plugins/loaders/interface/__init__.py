"""The loader `interface:PATH`: what an architecture search leaves in `interface.pt`, unpruned or pruned before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunecore import ForwardError, LoadedModel, ModelError, hookimpl
from prunecore.errors import listing, nearest
from prunecore.loading import TrustOptions, example_inputs
from prunecore.measure import count
from prunecore.types import ExampleInputs

from .content import Content, read, rebuilt, written
from .names import shown
from .segments import OWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from prunecore import Recipe
    from prunecore.types import NasBuilder

RESULT = "interface.pt"


class InterfaceLoader:
    """Builds the unpruned network by `nas.algname`, repeats earlier prunings, loads `params` strictly."""

    class Options(TrustOptions):
        """source: the file. size: [height, width] of the example input; inputs: its whole shape, or several shapes.

        num_classes: for builders that ask for it. nas_builder: `package.module:callable` or `file.py:callable` that builds
        the network instead of what `algname` names (called with interface, pretrained and num_classes). dialect: of the
        resize list in the file that is written, `old` or `new`.
        """

        source: Path
        size: tuple[int, int] = (224, 224)
        inputs: list[int] | list[list[int]] | None = None
        num_classes: int | None = None
        nas_builder: str | None = None
        dialect: Literal["old", "new"] = "old"

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_load_model(self, builders: Mapping[str, NasBuilder]) -> LoadedModel:
        options = self._options
        content = read(options.source)
        try:
            unpruned = self._build(content, builders)
        except ModelError as fault:
            raise ModelError(f"{options.source}: {fault}") from fault
        provenance: dict[str, Any] = {
            "spec": f"interface:{options.source}",
            "class": f"{type(unpruned).__module__}.{type(unpruned).__qualname__}",
            "algname": content.algname,
            "weights": str(options.source),
        }
        if content.entries or content.segments:
            provenance["original"] = _cost(unpruned, self._inputs(unpruned), options.source)
        net = rebuilt(unpruned, content).eval()
        return LoadedModel(net, self._inputs(net), provenance, pretrained=True)

    def _build(self, content: Content, builders: Mapping[str, NasBuilder]) -> nn.Module:
        told = self._options.nas_builder
        name = content.algname if told is None else "personal"
        if not isinstance(name, str) or name not in builders:
            hint = nearest(name, builders) if isinstance(name, str) else ""
            raise ModelError(f"algname {shown(name)}{hint}; there are builders for {listing(builders)}")
        nas = content.nas if told is None else {**content.nas, "builder": None, "nas_builder": told}
        # what was pruned is repeated here, so builders get the file as the search wrote it; it is theirs to change
        interface = {key: copy.copy(value) for key, value in content.interface.items() if key not in ("pruning", OWN)}
        found: nn.Module = builders[name](
            {**interface, "nas": copy.deepcopy(nas)},
            num_classes=self._options.num_classes,
            trust=self._options.trust(self._options.source),
        )
        return found

    def _inputs(self, net: nn.Module) -> ExampleInputs:
        """Example inputs of the network's floating-point type."""
        inputs = example_inputs(self._options.inputs or [1, 3, *self._options.size])
        floats = [p.dtype for p in net.parameters() if p.is_floating_point()]
        return ExampleInputs(tuple(x.to(floats[0]) for x in inputs.args)) if floats else inputs

    @hookimpl
    def prune_save_model(
        self, loaded: LoadedModel, pruned: nn.Module, recipe: Recipe, result: Mapping[str, Any], directory: Path
    ) -> Path:
        content = read(self._options.source)
        path = directory / RESULT
        written(path, content, loaded.model, pruned, recipe, result, dialect=self._options.dialect)
        return path


def _cost(net: nn.Module, inputs: ExampleInputs, path: Path) -> dict[str, int]:
    try:
        whole = count(net, inputs)
    except Exception as fault:  # the network's own code may raise anything
        shapes = listing(str(list(x.shape)) for x in inputs.args)
        raise ForwardError.of(fault, f"inputs {shapes}, unpruned, of {path}") from fault
    return {"macs": whole.macs, "params": whole.params}
