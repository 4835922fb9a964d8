"""Once-for-all networks (arXiv 1908.09791) by their `net_config`, and as subnets of a supernet."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from prunecore_plugins.nas import ofa
from prunecore_plugins.nas.ofa import OFABuilder, build

from prunecore import ConfigError, ForwardError, ModelError
from tests.plugins.loaders.interface_files import load, old_entries, refused, runs, same, save, write
from tests.plugins.loaders.interface_nets import OFA, cut, outputs, supernet

BUILDERS = OFABuilder().prune_nas_builders()


def file(path, nas, net, entries=()):
    pruning = {"pruning": {"is_pruning": True, "summary": {"resize": list(entries)}}} if entries else {}
    return write(path, OrderedDict(nas={"algname": "ofa", **nas}, params=OrderedDict(net.state_dict()), **pruning))


def test_the_hook_offers_one_algname():
    assert list(BUILDERS) == ["ofa"]
    assert BUILDERS["ofa"] is build


# ---------------------------------------------------------------- net_config


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("kind", OFA)
def test_by_its_configuration(tmp_path, kind, as_text):
    found = cut(kind)
    config = json.dumps(found.net.config) if as_text else found.net.config
    whole = load(file(tmp_path / "i.pt", {"net_config": config}, found.net), BUILDERS).model
    assert type(whole) is type(found.net)
    assert same(outputs(whole, found.x), outputs(found.net, found.x))
    path = file(tmp_path / "p.pt", {"net_config": config}, found.pruned, old_entries(found.net, found.pruned, "old"))
    assert same(outputs(load(path, BUILDERS).model, found.x), found.outputs)


def test_the_configuration_is_not_changed(tmp_path):
    config = cut("OFAMobileNetV3").net.config
    before = copy.deepcopy(config)
    interface = {"nas": {"algname": "ofa", "net_config": config}}
    first = build(interface, num_classes=None)
    assert config == before
    assert build(interface, num_classes=None).module_str == first.module_str


def test_written_with_its_configuration_and_read_again(tmp_path, monkeypatch):
    found = cut("OFAMobileNetV3")
    nas = {"net_config": found.net.config, "subnet": {"top1": 71.2}}
    source = file(tmp_path / "i.pt", nas, found.net)
    from tests.plugins.loaders import interface_files

    monkeypatch.setattr(interface_files, "BUILDERS", BUILDERS)
    path = save(source, found.net, found.pruned, found.recipe, tmp_path / "out")
    assert torch.load(path, weights_only=True)["nas"] == {"algname": "ofa", **nas}
    assert same(outputs(load(path).model, found.x), found.outputs)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{not json", "nas.net_config: is no JSON: JSONDecodeError"),
        ("[" * 100_000, "nas.net_config: is no JSON: RecursionError"),
        ("[1, 2]", "nas.net_config: expected a mapping, got [1, 2]"),
        ("null", "nas.net_config: expected a mapping, got None"),
        (5, "nas.net_config: expected a mapping, got 5"),
        ({}, "name is None, expected one of MobileNetV3, ProxylessNASNets, ResNets"),
        ({"name": "ResNet"}, "name is 'ResNet', did you mean 'ResNets'?"),
        ({"name": "OFAResNets"}, "name is 'OFAResNets'"),
        ({"name": ["ResNets"]}, "name is ['ResNets']"),
        ({"name": "__import__('os').system('true')"}, "expected one of MobileNetV3"),
        ({"name": "ResNets"}, "ResNets cannot be built: KeyError: 'classifier'"),
        ({"name": "MobileNetV3", "first_conv": {"name": "exec"}}, "MobileNetV3 cannot be built: KeyError: 'exec'"),
    ],
)
def test_configurations_that_describe_nothing(tmp_path, config, told):
    path = file(tmp_path / "i.pt", {"net_config": config}, torch.nn.Linear(1, 1))
    assert told in refused(path, BUILDERS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mid_channels": 40}, "has other shapes in `params`, but no entry says so"),
        ({"kernel_size": 3}, "depth_conv.conv has kernels of [3, 3], the file [5, 5]"),
        ({"use_se": True}, "the network has blocks.1.conv.depth_conv.se"),
        ({"name": "ConvLayer"}, "MobileNetV3 cannot be built: TypeError"),
        ({"act_func": "sinus"}, "cannot be built: ValueError: do not support: sinus"),
        ({"in_channels": 10**15}, "cannot be built: RuntimeError"),
    ],
)
def test_a_configuration_of_another_network_does_not_take_the_weights(tmp_path, change, told):
    net = cut("OFAMobileNetV3").net
    config = net.config
    conv = config["blocks"][1].get("mobile_inverted_conv") or config["blocks"][1]["conv"]
    assert conv["kernel_size"] == 5
    assert not conv["use_se"]
    conv.update(change)
    assert told in refused(file(tmp_path / "i.pt", {"net_config": config}, net), BUILDERS)


def test_a_configuration_that_cannot_run_ends_in_one_line(tmp_path):
    net = cut("OFAMobileNetV3").net
    config = net.config
    config["first_conv"]["stride"] = "two"
    loaded = load(file(tmp_path / "i.pt", {"net_config": config}, net), BUILDERS)
    with pytest.raises(ForwardError, match="the network fails on inputs"):
        runs(loaded)


# ---------------------------------------------------------------- supernets


def narrow(monkeypatch, kind):
    """The same supernets with narrower spaces, which are built sooner."""
    space = {"width_mult": 0.25, "ks_list": [3, 5], "expand_ratio_list": [2, 3], "depth_list": [1, 2]}
    if kind == "OFAResNets":
        space = {"depth_list": [0, 1], "expand_ratio_list": [0.2, 0.25], "width_mult_list": [0.125, 0.25]}
    monkeypatch.setattr(ofa, "_SPACES", {**ofa._SPACES, kind: space})


def drawn(kind):
    """Settings and the subnet of them, with weights of its own."""
    random.seed(3)
    arch = supernet(kind).sample_active_subnet()
    return arch, supernet(kind).get_active_subnet(preserve_weight=True).eval()


@pytest.mark.parametrize("where", ["arch", "JSON", "nas"])
@pytest.mark.parametrize("kind", OFA)
def test_by_a_supernet_and_settings(tmp_path, monkeypatch, kind, where):
    narrow(monkeypatch, kind)
    arch, net = drawn(kind)
    assert set(arch) == ({"d", "e", "w"} if kind == "OFAResNets" else {"ks", "e", "d"})
    given = {"arch": arch, "JSON": json.dumps(arch), "nas": None}[where]
    nas = {"supernet": kind, "n_classes": 5, **({"arch": given} if given else arch)}
    before = copy.deepcopy(nas)
    path = file(tmp_path / "i.pt", nas, net)
    model = load(path, BUILDERS).model
    x = cut(kind).x
    assert same(outputs(model, x), outputs(net, x))
    assert nas == before
    assert not any("Dynamic" in type(m).__name__ for m in model.modules())


def test_the_number_of_classes_is_the_users_then_the_files(tmp_path, monkeypatch):
    narrow(monkeypatch, "OFAMobileNetV3")
    nas = {"supernet": "OFAMobileNetV3", "arch": {"ks": 3, "e": 2, "d": 1}, "num_classes": 7, "n_classes": 9}
    assert build({"nas": nas}, num_classes=3).classifier.out_features == 3
    assert build({"nas": nas}, num_classes=None).classifier.out_features == 7
    del nas["num_classes"]
    assert build({"nas": nas}, num_classes=None).classifier.out_features == 9
    del nas["n_classes"]
    assert build({"nas": nas}, num_classes=None).classifier.out_features == 1000


def test_the_published_names_are_the_published_spaces():
    arch = {"ks": 7, "e": 6, "d": 2}
    small = build({"nas": {"supernet": "ofa_mbv3_d234_e346_k357_w1.0", "arch": arch}}, num_classes=5)
    wide = build({"nas": {"supernet": "ofa_mbv3_d234_e346_k357_w1.2", "arch": arch}}, num_classes=5)
    assert (small.first_conv.out_channels, wide.first_conv.out_channels) == (16, 24)
    assert len(small.blocks) == 11
    assert {b.conv.kernel_size for b in small.blocks[1:]} == {7}
    # twice, so that no list of a space is shared with the first
    again = build({"nas": {"supernet": "ofa_proxyless_d234_e346_k357_w1.3", "arch": arch}}, num_classes=5)
    assert again.first_conv.out_channels == 40
    assert ofa._SPACES["OFAMobileNetV3"]["ks_list"] == [3, 5, 7]


def test_a_published_resnet():
    arch = {"d": [0, 0, 0, 0, 0], "e": 0.2, "w": [0] * 6}
    net = build({"nas": {"supernet": "ofa_resnet50", "arch": arch}}, num_classes=5)
    assert len(net.blocks) == 10
    assert len(net.input_stem) == 2  # the stem's depth is not the largest
    assert net.classifier.in_features == 1328


@pytest.mark.parametrize(
    ("nas", "told"),
    [
        ({}, "nas (ofa): expected `net_config`, or `supernet` and `arch`; it has ['algname']"),
        ({"supernet": "ofa_vgg"}, "nas.supernet: unknown 'ofa_vgg'; expected ofa_mbv3, ofa_proxyless, ofa_resnet50"),
        ({"supernet": 5}, "nas.supernet: unknown '5'"),
        ({"supernet": "OFAMobileNetV3"}, "nas.arch: expected some of ks, e, d, w, it has ['algname', 'supernet']"),
        ({"supernet": "OFAMobileNetV3", "arch": {"x": 1}}, "nas.arch: expected some of ks, e, d, w, it has ['x']"),
        ({"supernet": "OFAMobileNetV3", "arch": "{"}, "nas.arch: is no JSON"),
        ({"supernet": "OFAMobileNetV3", "arch": [3]}, "nas.arch: expected a mapping, got [3]"),
        ({"supernet": "OFAMobileNetV3", "arch": {"ks": 9}}, "nas.arch: no such subnet of 'OFAMobileNetV3'"),
        ({"supernet": "OFAMobileNetV3", "arch": {"ks": "three"}}, "nas.arch: no such subnet of 'OFAMobileNetV3'"),
        ({"supernet": "OFAMobileNetV3", "arch": {"d": ["x"]}}, "nas.arch: no such subnet of 'OFAMobileNetV3'"),
        ({"supernet": "OFAMobileNetV3", "arch": {"e": 2}, "n_classes": "many"}, "nas.arch: no such subnet"),
        ({"supernet": "OFAResNets", "arch": {"w": [9] * 6}}, "nas.arch: no such subnet of 'OFAResNets': IndexError"),
    ],
)
def test_settings_that_describe_nothing(tmp_path, monkeypatch, nas, told):
    for kind in OFA:
        narrow(monkeypatch, kind)
    assert told in refused(file(tmp_path / "i.pt", nas, torch.nn.Linear(1, 1)), BUILDERS)


def test_settings_of_another_subnet_do_not_take_the_weights(tmp_path, monkeypatch):
    narrow(monkeypatch, "OFAMobileNetV3")
    arch, net = drawn("OFAMobileNetV3")
    other = {**arch, "ks": [8 - k for k in arch["ks"]]}
    path = file(tmp_path / "i.pt", {"supernet": "OFAMobileNetV3", "arch": other, "n_classes": 5}, net)
    assert "depth_conv.conv has kernels of" in refused(path, BUILDERS)


# ---------------------------------------------------------------- the package


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "ofa"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ofa", None)
    path = file(tmp_path / "i.pt", {"net_config": {"name": "ResNets"}}, torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"need ofa: pip install 'prunecore\[ofa\]'"):
        load(path, BUILDERS)


def test_neither_the_package_nor_torch_is_imported_before_it_is_needed():
    code = "import sys, prunecore_plugins.nas.ofa; sys.exit('ofa' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fault_is_one_line():
    with pytest.raises(ModelError) as caught:
        build({"nas": {"net_config": {"name": "a\nb" * 1000}}}, num_classes=None)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300
