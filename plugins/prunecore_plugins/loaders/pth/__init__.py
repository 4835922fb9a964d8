"""The loader `pth:PATH`: a whole module saved with `torch.save(model, path)`, whose code lies beside it or in a package."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import nn

from prunecore import ConfigError, LoadedModel, ModelError, hookimpl
from prunecore.errors import listing
from prunecore.files import write_whole
from prunecore.loading import (
    Allowed,
    TrustOptions,
    UntrustedError,
    check_contents,
    example_inputs,
    globals_in,
    read_pickled,
)
from prunecore.loading.opcodes import Foreign
from prunecore.training.forward import first_line

from .allowed import allowed_for

if TYPE_CHECKING:
    from prunecore.loading import Trust

_MOST = 5  # faults in one message
RESULT = "rezalt.pth"  # the name that existing users look for


class PthLoader:
    """The globals of the pickle are listed without unpickling; torch's own layers and standard containers pass, code of
    trusted directories and module classes of trusted packages too, anything else is refused by name.
    """

    class Options(TrustOptions):
        """source: the file. size: [height, width] of the example input; inputs: its whole shape, or several shapes.

        beside: write the result also into the directory of the source. pretrained: whether its weights are trained.
        """

        source: Path
        size: tuple[int, int] = (224, 224)
        inputs: list[int] | list[list[int]] | None = None
        beside: bool = False
        pretrained: bool = Field(default=True)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_load_model(self) -> LoadedModel:
        options = self._options
        model = module_in(options.source, unpickle(options.source, options.trust(options.source)))
        provenance = {
            "spec": f"pth:{options.source}",
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "weights": str(options.source),
        }
        inputs = example_inputs(options.inputs or [1, 3, *options.size])
        return LoadedModel(model.eval(), inputs, provenance, pretrained=options.pretrained)

    @hookimpl
    def prune_save_model(self, pruned: nn.Module, directory: Path) -> Path:
        places = [directory, *([self._options.source.parent] if self._options.beside else [])]
        for place in places:
            write_whole(place / RESULT, lambda file: torch.save(pruned, file))
        return directory / RESULT


def unpickle(path: Path, trust: Trust) -> Any:
    """What the file holds, with the code that it names and `trust` covers.

    Raises ModelError that lists everything else that it names, with the flags that would trust it; ConfigError where a
    module that it names is there twice.
    """
    if path.suffix == ".safetensors":
        raise ModelError(_weights_only(path))
    if trust.allow_pickle:
        return _run(path, trust)
    allowed: list[Allowed] = []
    untrusted: dict[str, list[str]] = {}
    faults: list[str] = []
    for module, name in globals_in(path):
        try:
            allowed += allowed_for(module, name, trust)
        except UntrustedError as fault:
            untrusted.setdefault(fault.advice, []).append(fault.name)
        except ModelError as fault:
            faults.append(str(fault))
        except ConfigError as fault:
            raise ConfigError(f"{path}: {fault}") from fault
    faults = [*(f"not trusted: {listing(names, most=5)}; {advice}" for advice, names in untrusted.items()), *faults]
    if faults:
        more = f"; and {len(faults) - _MOST} more" if len(faults) > _MOST else ""
        raise ModelError(f"{path}: {'; '.join(faults[:_MOST])}{more}")
    try:
        return read_pickled(path, allowed)
    except ModelError as fault:
        if isinstance(fault.__cause__, pickle.UnpicklingError):  # not damaged
            raise ModelError(f"{fault}; --allow-pickle takes the whole file as a program") from fault
        raise


def _run(path: Path, trust: Trust) -> Any:
    """Unpickle the file as a program."""
    try:
        globals_in(path)  # what is damaged or no such file is refused all the same
    except ModelError as fault:
        if not isinstance(fault.__cause__, Foreign):
            raise
    with trust.on_path():
        try:
            found = torch.load(path, map_location="cpu", weights_only=False)
        except (Exception, SystemExit) as fault:  # the file is a program
            advice = "; if its code lies beside it: --trust-code too" if isinstance(fault, ImportError) else ""
            raise ModelError(
                f"{path}: cannot be unpickled: {type(fault).__name__}: {first_line(fault)}{advice}"
            ) from fault
    check_contents(path, found, program=True)
    return found


def module_in(path: Path, found: Any) -> nn.Module:
    """The one network in what a file holds; ModelError where there is none or several."""
    if isinstance(found, nn.Module):
        return found
    if isinstance(found, Mapping):
        inside = {key: value for key, value in found.items() if isinstance(value, nn.Module)}
        if len(inside) == 1:
            return next(iter(inside.values()))
        if inside:
            raise ModelError(
                f"{path}: holds several networks ({listing(map(_shown, inside))}); save the one to prune alone"
            )
        if found and all(isinstance(value, torch.Tensor) for value in found.values()):
            raise ModelError(_weights_only(path))
        raise ModelError(
            f"{path}: holds a mapping with {listing(map(_shown, found), most=6) or 'nothing'}, expected a network saved by "
            "torch.save(model, path); weights alone go with --model python:FILE.py:CALLABLE --weights"
        )
    raise ModelError(f"{path}: holds a {type(found).__name__}, expected a network saved by torch.save(model, path)")


def _shown(key: object) -> str:
    """For one line of a terminal."""
    return str(key)[:60] if str(key).isprintable() else ascii(key)[:60]


def _weights_only(path: Path) -> str:
    return f"{path}: holds weights without their network; give both: --model python:FILE.py:CALLABLE --weights {quote(str(path))}"
