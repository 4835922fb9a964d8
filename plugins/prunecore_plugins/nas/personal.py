"""`algname: personal`: networks that the user's own code builds, from a trusted directory or package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from prunecore import ModelError, hookimpl
from prunecore.loading import Trust, trusted_callable

if TYPE_CHECKING:
    from prunecore.types import NasBuilder

USUAL = "interfaces.tools:build_net"  # where existing users have it


class PersonalBuilder:
    """`nas` holds `builder` (`file.py:callable`, with `args`, a mapping or JSON) or `nas_builder` (`package.module:callable`,
    called with the interface); without either, the user's own `interfaces.tools:build_net` is called.
    """

    @hookimpl
    def prune_nas_builders(self) -> Mapping[str, NasBuilder]:
        return {"personal": build}


def build(interface: Mapping[str, Any], *, num_classes: int | None, trust: Trust, **_: Any) -> nn.Module:
    """The unpruned network. Raises ModelError where the code is not trusted, fails, or gives no network."""
    nas = interface["nas"]
    if nas.get("builder") is not None:
        spec, arguments = str(nas["builder"]), _arguments(nas.get("args"))
    else:
        spec = str(nas.get("nas_builder") or USUAL)
        arguments = {"interface": interface, "pretrained": False, "num_classes": num_classes}
    function = trusted_callable(spec, trust)
    try:
        with trust.on_path():  # it may import its siblings when it is called
            found = function(**arguments)
    except Exception as fault:  # whatever the user's code raises
        raise ModelError(f"nas: {spec} failed: {_told(fault)}") from fault
    if not isinstance(found, nn.Module):
        raise ModelError(f"nas: {spec} gave a {type(found).__name__}, expected a torch.nn.Module")
    return found


def _arguments(given: Any) -> dict[str, Any]:
    try:
        arguments = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as fault:
        raise ModelError(f"nas.args: is no JSON: {_told(fault)}") from fault
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping) or not all(isinstance(k, str) and k.isidentifier() for k in arguments):
        raise ModelError(f"nas.args: expected keyword arguments, got {' '.join(repr(arguments).split())[:200]}")
    return dict(arguments)


def _told(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
