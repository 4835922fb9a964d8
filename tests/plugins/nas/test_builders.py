"""Builders of architecture searches that other plugins bring."""

from __future__ import annotations

import copy
from collections import OrderedDict
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace

import pytest
from prunecore_plugins.nas.ofa import build

from prunecore import ModelError, PluginError, hookimpl, registry
from prunecore.registry import Choice, build_manager
from prunecore.run.loading import load_model, nas_builders
from tests.plugins.loaders.interface_files import same, write
from tests.plugins.loaders.interface_nets import cut, outputs


def file(path, nas):
    return write(path, OrderedDict(nas=nas, params=OrderedDict(cut("plain").net.state_dict())))


def right(loaded):
    return same(outputs(loaded.model, cut("plain").x), outputs(cut("plain").net, cut("plain").x))


class Evolution:
    @hookimpl
    def prune_nas_builders(self):
        return {"evolution": self.build}

    @staticmethod
    def build(interface, *, num_classes, trust):
        assert trust.home.is_dir()
        return {"plain": lambda: copy.deepcopy(cut("plain").net)}[interface["nas"]["genome"]]()


class Second(Evolution):
    pass


def choice(path, **options):
    return Choice("loader", "interface", {"source": str(path), "size": [32, 32], **options}, "model")


def test_a_plugin_brings_a_builder(tmp_path):
    path = file(tmp_path / "i.pt", {"algname": "evolution", "genome": "plain"})
    manager = build_manager([choice(path)], defaults=(Evolution(),))
    assert set(nas_builders(manager.hook)) == {"evolution", "ofa", "personal"}
    loaded = load_model(manager.hook, "interface", seed=0)
    assert right(loaded)
    assert loaded.provenance["algname"] == "evolution"


def test_a_plugin_that_is_installed(tmp_path, monkeypatch):
    entry = EntryPoint("evolution", f"{__name__}:Evolution", "prunecore.extensions")
    given = SimpleNamespace(
        name=entry.name,
        value=entry.value,
        load=entry.load,
        dist=SimpleNamespace(name="prunecore-evolution", version="1"),
    )
    scanned = entry_points()

    def select(group):
        return [*scanned.select(group=group), *([given] if group == "prunecore.extensions" else [])]

    monkeypatch.setattr(registry, "entry_points", lambda: SimpleNamespace(select=select))
    path = file(tmp_path / "i.pt", {"algname": "evolution", "genome": "plain"})
    assert right(load_model(build_manager([choice(path)]).hook, "interface", seed=0))


def test_two_plugins_of_one_algname(tmp_path):
    path = file(tmp_path / "i.pt", {"algname": "evolution", "genome": "plain"})
    manager = build_manager([choice(path)], defaults=(Evolution(), Second()))
    with pytest.raises(PluginError, match=r"two plugins build networks of 'evolution'; uninstall one of them"):
        load_model(manager.hook, "interface", seed=0)


def test_a_plugin_may_not_take_a_name_of_ours(tmp_path):
    class Mine:
        @hookimpl
        def prune_nas_builders(self):
            return {"ofa": build}

    manager = build_manager([choice(file(tmp_path / "i.pt", {}))], defaults=(Mine(),))
    with pytest.raises(PluginError, match="'ofa'"):
        nas_builders(manager.hook)


def test_an_unknown_algname_lists_those_that_are_known(tmp_path):
    path = file(tmp_path / "i.pt", {"algname": "personel"})
    with pytest.raises(ModelError) as caught:
        load_model(build_manager([choice(path)]).hook, "interface", seed=0)
    told = str(caught.value)
    assert told.startswith(f"{path}: algname 'personel', did you mean 'personal'?; there are builders for ")
    assert set(told.rpartition("for ")[2].split(", ")) == {"ofa", "personal"}
