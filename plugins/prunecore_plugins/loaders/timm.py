"""The loader `timm:NAME`: any network of the library timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prunecore import ConfigError, LoadedModel, ModelError, hookimpl
from prunecore.errors import nearest
from prunecore.loading import example_inputs, load_weights, silence_limited


class TimmLoader:
    """Weights are random unless `pretrained` (timm fetches its own) or `weights` (a file) is given."""

    class Options(BaseModel):
        """source: a name of `timm.list_models()`. args: further keyword arguments of `timm.create_model`.

        num_classes: outputs (default: those of the network). size: [height, width] of the example input (default:
        the network's own); inputs: its whole shape.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: str
        pretrained: bool = False
        weights: Path | None = None
        num_classes: int | None = Field(default=None, ge=1)
        args: dict[str, Any] = {}
        size: tuple[int, int] | None = None
        inputs: list[int] | None = None

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_load_model(self) -> LoadedModel:
        options = self._options
        timm = _timm()
        if not timm.is_model(options.source):
            hint = nearest(options.source.partition(".")[0], timm.list_models())
            raise ConfigError(f"timm has no model {options.source!r}{hint}; see timm.list_models()")
        args = options.args if options.num_classes is None else {**options.args, "num_classes": options.num_classes}
        try:
            with silence_limited():
                model = timm.create_model(options.source, pretrained=options.pretrained, **args)
        except Exception as fault:  # a download, an argument: whatever timm raises
            raise ModelError(f"timm cannot make {options.source!r}: {type(fault).__name__}: {fault}") from fault
        if options.weights is not None:
            load_weights(model, options.weights)
        channels, *size = model.pretrained_cfg.get("input_size", (3, 224, 224))
        provenance = {
            "spec": f"timm:{options.source}",
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "args": args,
            "weights": str(options.weights) if options.weights else ("timm" if options.pretrained else None),
            "timm": timm.__version__,
        }
        inputs = example_inputs(options.inputs or [1, channels, *(options.size or size)])
        trained = options.pretrained or options.weights is not None
        return LoadedModel(model.eval(), inputs, provenance, pretrained=trained)


def _timm() -> Any:
    try:
        import timm
    except ImportError as missing:
        raise ConfigError("the loader `timm` needs timm: pip install 'prunecore[timm]'") from missing
    return timm
