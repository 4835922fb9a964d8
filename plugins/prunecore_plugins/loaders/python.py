"""The loader `python:module_or_file.py:callable`: a network that the user's own code builds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import nn

from prunecore import ConfigError, LoadedModel, ModelError, hookimpl
from prunecore.errors import listing
from prunecore.loading import absolute, example_inputs, load_weights, run_named


class PythonLoader:
    """Calls the callable with `args`; it returns an `nn.Module`, or a whole `prunecore.LoadedModel`."""

    class Options(BaseModel):
        """source: `module:callable` or `path/to/file.py:callable`. args: keyword arguments. weights: a state dict.

        size: [height, width] of the example input; inputs: its whole shape, or several shapes. pretrained: say true where
        the callable loads trained weights itself.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: Annotated[str, AfterValidator(absolute)]
        args: dict[str, Any] = {}
        weights: Path | None = None
        size: tuple[int, int] = (224, 224)
        inputs: list[int] | list[list[int]] | None = None
        pretrained: bool = False

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_load_model(self) -> LoadedModel:
        options = self._options
        made = run_named(options.source, options.args)
        if isinstance(made, LoadedModel):
            given = options.model_fields_set - {"source", "args"}
            if given:
                raise ConfigError(
                    f"{options.source} returns a LoadedModel, which says all by itself; drop {listing(sorted(given))}"
                )
            return made
        if not isinstance(made, nn.Module):
            raise ModelError(f"{options.source} returned a {type(made).__name__}, expected a torch.nn.Module")
        if options.weights is not None:
            load_weights(made, options.weights)
        provenance = {
            "spec": f"python:{options.source}",
            "class": f"{type(made).__module__}.{type(made).__qualname__}",
            "args": options.args,
            "weights": str(options.weights) if options.weights else None,
        }
        inputs = example_inputs(options.inputs or [1, 3, *options.size])
        trained = options.pretrained or options.weights is not None
        return LoadedModel(made.eval(), inputs, provenance, pretrained=trained)
