"""The loader `torchvision:NAME`: any network of `torchvision.models.list_models()`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import nn

from prunecore import ConfigError, LoadedModel, ModelError, hookimpl
from prunecore.errors import listing, nearest
from prunecore.loading import absolute, example_inputs, load_weights, silence_limited

_VIDEO = (3, 16, 112, 112)
_IMAGE_SIZES = {"inception_v3": (299, 299)}


class TorchvisionLoader:
    """Weights are random unless `weights` is given: `DEFAULT` or another name of torchvision's, or a file."""

    class Options(BaseModel):
        """source: the network's name. weights: `DEFAULT`, such a name as `IMAGENET1K_V2`, or the file of a state dict.

        num_classes: outputs (with named weights of another number of classes, the last layer starts random). args:
        further keyword arguments of the builder. size: [height, width] of the example input; inputs: its whole shape,
        or several shapes.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: str
        weights: Annotated[str, AfterValidator(absolute)] | None = None
        num_classes: int | None = Field(default=None, ge=1)
        args: dict[str, Any] = {}
        size: tuple[int, int] | None = None
        inputs: list[int] | list[list[int]] | None = None

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_load_model(self) -> LoadedModel:
        options = self._options
        models = _models()
        if options.source not in models.list_models():
            hint = nearest(options.source, models.list_models())
            raise ConfigError(
                f"torchvision has no model {options.source!r}{hint}; see torchvision.models.list_models()"
            )
        args = options.args if options.num_classes is None else {**options.args, "num_classes": options.num_classes}
        model = _build(models, options.source, args)
        if options.weights is not None and Path(options.weights).suffix:
            load_weights(model, Path(options.weights))
        elif options.weights is not None:
            _load_named(models, model, options)
        provenance = {
            "spec": f"torchvision:{options.source}",
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "args": args,
            "weights": options.weights,
        }
        inputs = example_inputs(options.inputs or _shape(models, options.source, options.size))
        return LoadedModel(model.eval(), inputs, provenance, pretrained=options.weights is not None)


def _models() -> Any:
    try:
        import torchvision
    except ImportError as missing:
        raise ConfigError("the loader `torchvision` needs torchvision: pip install 'prunecore[vision]'") from missing
    return torchvision.models


def _build(models: Any, name: str, args: dict[str, Any]) -> nn.Module:
    # these two warn unless they are told; their slow initialisation is of no use here
    quiet = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    backbone = {"weights_backbone": None} if name in models.list_models(module=models.detection) else {}
    backbone |= {"weights_backbone": None} if name in models.list_models(module=models.segmentation) else {}
    try:
        model: nn.Module = models.get_model(name, weights=None, **{**quiet, **backbone, **args})
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"torchvision cannot make {name!r} with {args}: {fault}") from fault
    return model


def _load_named(models: Any, model: nn.Module, options: TorchvisionLoader.Options) -> None:
    """torchvision's own weights; with `num_classes` the tensors with one row a class stay as they are."""
    name, weights = options.source, str(options.weights)
    known = models.get_model_weights(name)
    if weights not in (*known.__members__, "DEFAULT"):
        there = listing(known.__members__)
        raise ConfigError(
            f"torchvision has no weights {weights!r} of {name}{nearest(weights, known.__members__)}; it has: {there}"
        )
    try:
        with silence_limited():
            given = known[weights].get_state_dict(progress=False, check_hash=True)
    except OSError as fault:
        raise ModelError(
            f"weights {weights} of {name} cannot be fetched ({fault}); give a file: --weights FILE"
        ) from fault
    own = model.state_dict()
    fitting = {n: v for n, v in given.items() if n in own and own[n].shape == v.shape}
    heads = {n for n, v in own.items() if options.num_classes is not None and v.shape[:1] == (options.num_classes,)}
    odd = sorted(own.keys() - fitting.keys() - heads)
    if odd:
        raise ModelError(
            f"weights {weights} of {name} do not fit the network: {listing(odd, most=3)}; only the last layer may differ, by num_classes"
        )
    model.load_state_dict({**own, **fitting})


def _shape(models: Any, name: str, size: tuple[int, int] | None) -> list[int]:
    if name in models.list_models(module=models.video):
        return [1, *_VIDEO[:2], *(size or _VIDEO[2:])]
    return [1, 3, *(size or _IMAGE_SIZES.get(name, (224, 224)))]
