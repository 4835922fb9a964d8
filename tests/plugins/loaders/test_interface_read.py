"""Files of the old tool, in both dialects, read back bit-equal; what its own reader lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.plugins.loaders.interface_files import (
    foreign,
    interface,
    load,
    old_entries,
    refused,
    resize_of,
    same,
    write,
)
from tests.plugins.loaders.interface_nets import build, cut, outputs

FOREIGN = (
    *("plain", "biased", "half", "double", "grouped", "tied", "names", "sequential"),
    *("OFAResNets", "OFAMobileNetV3", "OFAProxylessNASNets"),
    *("test_resnet", "test_efficientnet", "test_efficientnet_gn", "test_convnext", "test_nfnet", "test_byobnet"),
)


@pytest.mark.parametrize("dialect", ["old", "new"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_pruned_file_of_the_old_tool_gives_the_same_outputs(tmp_path, name, dialect):
    pruned = cut(name)
    loaded = load(foreign(tmp_path / "i.pt", pruned, dialect))
    assert same(outputs(loaded.model, pruned.x), pruned.outputs)
    kinds = [type(m) for m in loaded.model.modules()]
    assert kinds == [type(m) for m in pruned.net.modules()]
    assert not any(m.training for m in loaded.model.modules())
    own, theirs = loaded.model.state_dict(), pruned.pruned.state_dict()
    assert list(own) == list(theirs)
    assert all(same(own[n], theirs[n]) for n in own)


@pytest.mark.parametrize("name", ["plain", "OFAMobileNetV3", "half"])
def test_a_file_that_was_never_pruned(tmp_path, name):
    net, x = cut(name).net, cut(name).x
    loaded = load(write(tmp_path / "i.pt", interface(name, net)))
    assert same(outputs(loaded.model, x), outputs(net, x))
    assert "original" not in loaded.provenance
    assert loaded.provenance["algname"] == "zoo"
    assert loaded.pretrained


def test_the_example_inputs_have_the_type_of_the_network(tmp_path):
    for name, dtype in (("half", torch.float16), ("double", torch.float64), ("plain", torch.float32)):
        assert load(foreign(tmp_path / "i.pt", cut(name), "old")).inputs.args[0].dtype == dtype


def test_the_original_costs_are_those_of_the_unpruned_network(tmp_path):
    loaded = load(foreign(tmp_path / "i.pt", cut("plain"), "old"))
    whole = sum(p.numel() for p in cut("plain").net.parameters())
    macs = 32 * 32 * (8 * 3 * 9 + 8 * 9 + 2 * 64) + 40
    assert loaded.provenance["original"] == {"macs": macs, "params": whole}


def test_inputs_that_do_not_fit_are_one_line(tmp_path):
    path = foreign(tmp_path / "i.pt", cut("plain"), "old")
    assert "the network fails on inputs [1, 4, 8, 8], unpruned, of" in refused(path, inputs=[1, 4, 8, 8])


def test_the_older_format_of_torch(tmp_path):
    pruned = cut("plain")
    content = interface("plain", pruned.pruned, old_entries(pruned.net, pruned.pruned, "old"))
    torch.save(content, tmp_path / "i.pt", _use_new_zipfile_serialization=False)
    assert same(outputs(load(tmp_path / "i.pt").model, pruned.x), pruned.outputs)


def test_the_dialects_are_what_the_specification_says(tmp_path):
    older = resize_of(foreign(tmp_path / "o.pt", cut("sequential"), "old"))
    assert older[0] == {
        "name": "[0].weight",
        "type": "torch.nn.modules.conv.Conv2d",
        "orig_shape": [3, 8],
        "shape": [3, 5],
    }
    assert [e["name"] for e in older[1:3]] == ["[0].bias", "[1][0].weight"]
    newer = resize_of(foreign(tmp_path / "n.pt", cut("plain"), "new"))
    assert newer[3] == {"name": "blocks.0", "type": "Conv2d", "orig_shape": [8, 8], "shape": [4, 6]}


def test_names_in_the_middle(tmp_path):
    entries = old_entries(cut("names").net, cut("names").pruned, "old")
    assert "a[0].b[0].weight" in [e["name"] for e in entries]
    loaded = load(foreign(tmp_path / "i.pt", cut("names"), "old"))
    assert loaded.model.a[0]["b"][0].in_channels == cut("names").pruned.a[0]["b"][0].in_channels < 8


# ---------------------------------------------------------------- what the old reader lost


def test_subclasses_keep_what_they_carry(tmp_path):
    pruned = cut("test_efficientnet")
    entries = old_entries(pruned.net, pruned.pruned, "new")
    assert "BatchNormAct2d" in {e["type"] for e in entries}
    for said in ("BatchNormAct2d", "BatchNorm2d"):  # the old tool may name the base
        for entry in entries:
            entry["type"] = said if entry["type"] in ("BatchNormAct2d", "BatchNorm2d") else entry["type"]
        path = write(tmp_path / f"{said}.pt", interface(pruned.name, pruned.pruned, entries))
        norms = [m for m in load(path).model.modules() if type(m).__name__ == "BatchNormAct2d"]
        assert {type(m.act) for m in norms} >= {nn.SiLU, nn.Identity}
        assert same(outputs(load(path).model, pruned.x), pruned.outputs)


def test_biases_are_neither_lost_nor_invented(tmp_path):
    model = load(foreign(tmp_path / "i.pt", cut("grouped"), "old")).model
    assert model.fc.bias is None
    assert model.a.bias.shape == (model.a.out_channels,)
    assert same(model.a.bias, cut("grouped").pruned.a.bias)


def test_grouped_is_not_depthwise_and_a_multiplier_stays(tmp_path):
    model = load(foreign(tmp_path / "i.pt", cut("grouped"), "old")).model
    assert (model.grouped.groups, model.grouped.weight.shape[1]) == (2, model.a.out_channels // 2)
    assert model.multiplied.groups == model.multiplied.in_channels == model.grouped.out_channels
    assert model.multiplied.out_channels == 2 * model.multiplied.in_channels


@pytest.mark.parametrize("dialect", ["old", "new"])
def test_depthwise_shapes_that_were_read_off_the_weight(tmp_path, dialect):
    """`[in, out]` as the reverse of `weight.shape[:2]`: a depthwise layer then says that it has one input."""
    pruned = cut("plain")
    entries = old_entries(pruned.net, pruned.pruned, dialect)
    for entry in entries:
        if entry["name"].startswith("depthwise"):
            entry["shape"] = [1, entry["shape"][1]]
    loaded = load(write(tmp_path / "i.pt", interface("plain", pruned.pruned, entries)))
    assert same(outputs(loaded.model, pruned.x), pruned.outputs)
    assert loaded.model.depthwise.in_channels == pruned.pruned.depthwise.in_channels == 4


def test_hooks_flags_and_sharing_survive(tmp_path):
    seen: list[str] = []

    def builder(interface, **_):
        net = build(interface["nas"]["net"])
        net.b.register_forward_hook(lambda *_: seen.append("b"))
        net.d.bias.requires_grad_(False)
        net.a.weight.note = "mine"
        return net

    path = foreign(tmp_path / "i.pt", cut("tied"), "old")
    model = load(path, {"zoo": builder}).model
    assert not model.d.bias.requires_grad
    assert model.d.weight.requires_grad
    assert model.c.weight is model.b.weight
    assert model.again is model.b
    seen.clear()
    assert same(outputs(model, cut("tied").x), cut("tied").outputs)
    assert seen == ["b", "b"]
    assert isinstance(model.a.weight, nn.Parameter)


def test_a_tied_weight_that_the_file_holds_twice_and_different_is_no_tied_weight(tmp_path):
    content = interface("tied", cut("tied").pruned, old_entries(cut("tied").net, cut("tied").pruned, "old"))
    for other in (content["params"]["c.weight"] + 1, content["params"]["c.weight"].double(), torch.zeros(2, 2)):
        content["params"]["c.weight"] = other
        text = refused(write(tmp_path / "i.pt", content))
        assert "b.weight and c.weight are one tensor in the network, but differ in the file" in text


# ---------------------------------------------------------------- one error that names it


def entry(**more):
    return {"name": "blocks.0", "type": "Conv2d", "shape": [4, 6], **more}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"type": "Conv3d"}, "blocks.0 is a Conv2d, the file says 'Conv3d'"),
        ({"type": "torch.nn.modules.batchnorm.BatchNorm2d"}, "the file says 'torch.nn.modules.batchnorm.BatchNorm2d'"),
        ({"type": "Module"}, "the file says 'Module'"),
        ({"type": "object"}, "the file says 'object'"),
        ({"type": ""}, "the file says ''"),
        ({"name": "blocks.7"}, "no 'blocks.7', did you mean 'blocks.1'?"),
        ({"name": "blocks[0].wieght"}, "no 'blocks.0.wieght'"),
        ({"name": "blocks[0].bias"}, "no 'blocks.0.bias'"),
        ({"name": "blocks", "type": "ModuleList"}, "ModuleList"),
        ({"shape": [4, 5]}, "blocks.0: the file says [4, 5], its `params` are for [4, 6]"),
        ({"shape": [6]}, "blocks.0: a Conv2d has 2 numbers, got [6]"),
    ],
)
def test_an_entry_that_fits_nothing_is_named(tmp_path, wrong, told):
    pruned = cut("plain")
    entries = [e for e in old_entries(pruned.net, pruned.pruned, "new") if e["name"] != "blocks.0"]
    good = write(tmp_path / "good.pt", interface("plain", pruned.pruned, [*entries, entry()]))
    assert same(outputs(load(good).model, pruned.x), pruned.outputs)
    bad = write(tmp_path / "bad.pt", interface("plain", pruned.pruned, [*entries, entry(), entry(**wrong)]))
    assert told in refused(bad)


def test_a_missing_entry_is_named(tmp_path):
    pruned = cut("plain")
    entries = [e for e in old_entries(pruned.net, pruned.pruned, "old") if not e["name"].startswith("depthwise")]
    text = refused(write(tmp_path / "i.pt", interface("plain", pruned.pruned, entries)))
    assert "depthwise (Conv2d) has other shapes in `params`, but no entry says so" in text


def test_the_last_entry_of_a_module_wins(tmp_path):
    pruned = cut("plain")
    entries = [entry(shape=[8, 7]), *old_entries(pruned.net, pruned.pruned, "old")]
    loaded = load(write(tmp_path / "i.pt", interface("plain", pruned.pruned, entries)))
    assert same(outputs(loaded.model, pruned.x), pruned.outputs)
    text = refused(write(tmp_path / "j.pt", interface("plain", pruned.pruned, [*entries, entry(shape=[8, 7])])))
    assert "the file says [8, 7], its `params` are for [4, 6]" in text
