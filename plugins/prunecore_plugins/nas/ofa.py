"""Networks of once-for-all (arXiv 1908.09791), `algname: ofa`: a static subnet from its `net_config`, or from a supernet's settings."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prunecore import ConfigError, ModelError, hookimpl
from prunecore.errors import listing, nearest

if TYPE_CHECKING:
    from torch import nn

    from prunecore.types import NasBuilder

# the spaces of the published supernets
_DEPTHS = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4], "dropout_rate": 0}
_SPACES: Mapping[str, Mapping[str, Any]] = {
    "OFAMobileNetV3": _DEPTHS,
    "OFAProxylessNASNets": _DEPTHS,
    "OFAResNets": {
        "depth_list": [0, 1, 2],
        "expand_ratio_list": [0.2, 0.25, 0.35],
        "width_mult_list": [0.65, 0.8, 1.0],
        "dropout_rate": 0,
    },
}
_PREFIXES = {"ofa_mbv3": "OFAMobileNetV3", "ofa_proxyless": "OFAProxylessNASNets", "ofa_resnet50": "OFAResNets"}
_SETTINGS = ("ks", "e", "d", "w")


class OFABuilder:
    """`nas` holds `net_config` (a mapping, or JSON), or `supernet` (`ofa_resnet50`, `ofa_mbv3_d234_e346_k357_w1.2`, a class of
    the package) and `arch` with some of `ks`, `e`, `d`, `w` (a mapping, or JSON; or they stand in `nas` itself).
    """

    @hookimpl
    def prune_nas_builders(self) -> Mapping[str, NasBuilder]:
        return {"ofa": build}


def build(interface: Mapping[str, Any], *, num_classes: int | None, **_: Any) -> nn.Module:
    """The unpruned static network. Raises ModelError where `nas` does not describe one."""
    nas = interface["nas"]
    if nas.get("net_config") is not None:
        return _from_config(_settings("net_config", nas["net_config"]))
    if nas.get("supernet") is not None:
        return _from_supernet(nas, num_classes)
    raise ModelError(f"nas (ofa): expected `net_config`, or `supernet` and `arch`; it has {_shown(list(nas))}")


def _from_config(config: Mapping[str, Any]) -> nn.Module:
    networks = _package("networks")
    name = config.get("name")
    known = ("MobileNetV3", "ProxylessNASNets", "ResNets")
    if name not in known:
        raise ModelError(
            f"nas.net_config: name is {_shown(name)}{nearest(_shown(name), known)}, expected one of {listing(known)}"
        )
    try:
        found: nn.Module = networks.get_net_by_name(name).build_from_config(config)
    except Exception as fault:  # a damaged configuration ends in exceptions of many kinds
        raise ModelError(f"nas.net_config: {name} cannot be built: {_told(fault)}") from fault
    return found


def _from_supernet(nas: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    supernets = _package("elastic_nn.networks")
    name = str(nas["supernet"])
    kind = name if name in _SPACES else next((k for p, k in _PREFIXES.items() if name.startswith(p)), None)
    if kind is None:
        raise ModelError(f"nas.supernet: unknown {_shown(name)}; expected {listing([*_PREFIXES, *_SPACES])}")
    given = _settings("arch", nas.get("arch", nas))
    arch = {key: given[key] for key in _SETTINGS if given.get(key) is not None}
    if not arch:
        raise ModelError(f"nas.arch: expected some of {listing(_SETTINGS)}, it has {_shown(list(given))}")
    width = re.search(r"_w(\d+(?:\.\d+)?)$", name)
    options = {"width_mult": float(width[1])} if width and kind != "OFAResNets" else {}
    classes = num_classes or nas.get("num_classes") or nas.get("n_classes") or 1000
    try:
        supernet = getattr(supernets, kind)(n_classes=int(classes), **copy.deepcopy(_SPACES[kind]), **options)
        supernet.set_active_subnet(**arch)
        found: nn.Module = supernet.get_active_subnet(preserve_weight=True)
    except Exception as fault:  # settings outside the space end in exceptions of many kinds
        raise ModelError(f"nas.arch: no such subnet of {_shown(name)}: {_told(fault)}") from fault
    return found


def _settings(key: str, given: Any) -> dict[str, Any]:
    """A mapping, or the JSON of one; a copy, as the package changes what it is given."""
    try:
        found = json.loads(given) if isinstance(given, str) else copy.deepcopy(given)
    except (ValueError, RecursionError) as fault:
        raise ModelError(f"nas.{key}: is no JSON: {_told(fault)}") from fault
    if not isinstance(found, Mapping):
        raise ModelError(f"nas.{key}: expected a mapping, got {_shown(found)}")
    return dict(found)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"ofa.imagenet_classification.{name}")
    except ImportError as missing:
        raise ConfigError("networks of `algname: ofa` need ofa: pip install 'prunecore[ofa]'") from missing


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:100]


def _told(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
