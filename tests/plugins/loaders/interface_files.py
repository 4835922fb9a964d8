"""Interface files as the users' old tool writes and reads them, by code that shares nothing with ours."""

from __future__ import annotations

import builtins
import contextlib
import os
import re
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from prunecore_plugins.loaders.interface import InterfaceLoader
from torch import nn

from prunecore import LoadedModel, PrunecoreError, Recipe
from prunecore.run.loading import check_forward
from tests.plugins.loaders.interface_nets import Cut, build

RESULT = {"size": 0.5, "val_accuracy": 0.9, "time": "0h 0m 1s"}


# ---------------------------------------------------------------- the old tool


def brackets(name: str) -> str:
    """`blocks.1.conv.weight` -> `blocks[1].conv.weight`."""
    found = ""
    for part in name.split("."):
        found += f"[{part}]" if part.isdigit() else f".{part}" if found else part
    return found


def shape(module: nn.Module) -> list[int] | None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return [module.in_channels, module.out_channels]
    if isinstance(module, nn.Linear):
        return [module.in_features, module.out_features]
    if isinstance(module, nn.GroupNorm):
        return [module.num_channels]
    if isinstance(module, nn.LayerNorm):
        return list(module.normalized_shape)
    return [module.num_features] if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)) else None


def old_entries(before: nn.Module, after: nn.Module, dialect: str) -> list[dict[str, Any]]:
    """older: one entry a changed parameter, dotted type, brackets. newer: one a module, short type, dotted name."""
    parameters, modules = dict(after.named_parameters()), dict(after.named_modules())
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in before.named_parameters():
        holder, _, _ = name.rpartition(".")
        module, old = modules[holder], shape(before.get_submodule(holder))
        if parameter.shape == parameters[name].shape or old is None:
            continue
        if dialect == "old":
            kind = str(type(module))[8:-2]
            found[name] = {"name": brackets(name), "type": kind, "orig_shape": old, "shape": shape(module)}
        else:
            kind = type(module).__name__
            found[holder] = {"name": holder, "type": kind, "orig_shape": old, "shape": shape(module)}
    return list(found.values())


def old_reader(path: Path, net: nn.Module) -> nn.Module:
    """The users' old reader, without its `eval`: new modules of the listed shapes, then the parameters, strictly."""
    content = torch.load(path, weights_only=True)
    for entry in content["pruning"]["summary"]["resize"]:
        parts = re.sub(r"\[(\d+)\]", r".\1", entry["name"]).strip(".").split(".")[:-1]
        holder = net.get_submodule(".".join(parts[:-1]))
        old = getattr(holder, parts[-1])
        new: nn.Module
        if entry["type"] == "torch.nn.modules.conv.Conv2d":
            inputs, outputs = entry["shape"]
            groups = inputs if old.groups > 1 else 1
            more = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
            new = nn.Conv2d(inputs, outputs, groups=groups, bias=False, **more)
        elif entry["type"] == "torch.nn.modules.batchnorm.BatchNorm2d":
            new = nn.BatchNorm2d(entry["shape"][0], eps=old.eps, momentum=old.momentum)
        elif entry["type"] == "torch.nn.modules.linear.Linear":
            new = nn.Linear(*entry["shape"])
        else:
            continue
        setattr(holder, parts[-1], new)
    nn.Module.load_state_dict(net, content["params"], strict=True)
    return net.eval()


# ---------------------------------------------------------------- files


def interface(name: str, net: nn.Module, entries: Sequence[Any] | None = None, **more: Any) -> OrderedDict[str, Any]:
    """What the file of a network of `interface_nets` holds; entries: None for one that was not pruned."""
    found = OrderedDict(nas={"algname": "zoo", "net": name}, params=OrderedDict(net.state_dict()), **more)
    if entries is not None:
        summary = {"size": 0.5, "val_accuracy": 0.9, "resize": list(entries), "time": "0h 0m 1s"}
        found["pruning"] = {"is_pruning": True, "summary": summary}
    return found


def write(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


def foreign(path: Path, cut: Cut, dialect: str) -> Path:
    """A pruned file of the old tool."""
    return write(path, interface(cut.name, cut.pruned, old_entries(cut.net, cut.pruned, dialect)))


def changed(path: Path, change: Callable[[Any], object], target: Path | None = None) -> Path:
    """The file with one change to what it holds."""
    content = torch.load(path, weights_only=True)
    change(content)
    return write(target or path, content)


def resize_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = torch.load(path, weights_only=True)["pruning"]["summary"]["resize"]
    return found


# ---------------------------------------------------------------- ours

BUILDERS = {"zoo": lambda interface, **_: build(interface["nas"]["net"])}


def loader(path: Path, **options: Any) -> InterfaceLoader:
    return InterfaceLoader(InterfaceLoader.Options(source=path, size=(32, 32), **options))


def load(path: Path, builders: Mapping[str, Any] | None = None, **options: Any) -> LoadedModel:
    return loader(path, **options).prune_load_model(builders or BUILDERS)


def save(source: Path, before: nn.Module, after: nn.Module, recipe: Recipe, out: Path, dialect: str = "old") -> Path:
    """What a run writes that started from `source`, whose network is `before`."""
    loaded = LoadedModel(before, load(source).inputs, {}, True)
    return loader(source, dialect=dialect).prune_save_model(loaded, after, recipe, RESULT, out)


def ours(directory: Path, cut: Cut, dialect: str = "old") -> Path:
    """A pruned file of ours."""
    source = write(directory / "source.pt", interface(cut.name, cut.net))
    return save(source, cut.net, cut.pruned, cut.recipe, directory / "out", dialect)


@contextlib.contextmanager
def no_code() -> Iterator[None]:
    """Whatever would run code from a text fails the test."""

    def guarded(function: Callable[..., Any], *, texts_only: bool) -> Callable[..., Any]:
        def call(source: Any, *args: Any, **more: Any) -> Any:
            if isinstance(source, str) or not texts_only:  # pydantic evaluates annotations that it has compiled
                raise AssertionError(f"executed: {source!r:.200}")
            return function(source, *args, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("eval", "exec"):
            patch.setattr(builtins, name, guarded(getattr(builtins, name), texts_only=True))
        for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen")):
            patch.setattr(module, name, guarded(getattr(module, name), texts_only=False))
        yield


def refused(path: Path, builders: Mapping[str, Any] | None = None, **options: Any) -> str:
    """The one line that the reader ends with; without builders that run code of their own, no text is executed."""
    try:
        with no_code() if builders is None else contextlib.nullcontext():
            load(path, builders, **options)
    except PrunecoreError as error:
        text = str(error)
        assert len(text.splitlines()) == 1, text
        assert len(text) < 1500, len(text)
        assert str(path) in text, text
        return text
    raise AssertionError("the file was read")


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Bit-equal."""
    return first.dtype == second.dtype and torch.equal(first, second)


def runs(loaded: LoadedModel) -> nn.Module:
    """The network after what every run does first: one forward."""
    check_forward(loaded.model, loaded.inputs)
    return loaded.model


def first(content: Mapping[str, Any]) -> Any:
    """The first entry of its resize list."""
    return content["pruning"]["summary"]["resize"][0]


def resize(content: Mapping[str, Any]) -> Any:
    """Its resize list."""
    return content["pruning"]["summary"]["resize"]
