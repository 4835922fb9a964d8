"""Hostile interface files: names that are code, types and shapes that are none. Nothing is executed, nothing is written."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from prunecore_plugins.loaders.interface.names import bracketed, owner, parsed
from torch import nn

from prunecore import ModelError
from tests.plugins.loaders.interface_files import changed, first, interface, refused, write
from tests.plugins.loaders.interface_nets import cut

# ---------------------------------------------------------------- names

CODE = "__import__('os').system('touch {}')"


@pytest.mark.parametrize(
    "name",
    [
        CODE,
        f"blocks[{CODE}].weight",
        f"blocks[0].{CODE}",
        "(lambda: None)()",
        "exec('import os')",
        "__class__",
        "__class__.__mro__[1].__subclasses__",
        "blocks[0].__dict__",
        "blocks[0].__init__.__globals__",
        "_modules",
        "blocks._modules[0]",
        "blocks[-1].weight",
        "blocks[0:1].weight",
        "blocks['0'].weight",
        "blocks[0",
        "blocks]0[",
        "blocks..0",
        ".blocks[0].weight",
        "blocks[0].weight.",
        "blocks[0].weight.data",
        "blocks[0]conv",
        "blocks[٣].weight",  # a digit, but none of ours
        "blocks[0].w\u0435ight",  # a Cyrillic e
        "blocks[0]\n.weight",
        " blocks[0].weight",
        "forward",
        "",
        "[]",
        "a" * 2_000_000,
        "a." * 100_000 + "weight",
        "[0]" * 100_000,
        None,
        7,
        True,
        b"blocks",
        ["blocks", 0],
        {"blocks": 0},
        torch.zeros(3, 3),
    ],
    ids=lambda name: repr(name)[:40],
)
def test_names(tmp_path, theirs, name):
    marker = tmp_path / "marker"
    name = name.format(marker) if isinstance(name, str) and "{}" in name else name
    before = sorted(tmp_path.iterdir())
    text = refused(changed(theirs, lambda content: first(content).update(name=name)))
    assert "no name of a parameter" in text or "the network has no" in text
    assert len(text) < 500 + len(str(theirs))
    assert sorted(tmp_path.iterdir()) == before
    assert not marker.exists()


@pytest.mark.parametrize(
    "kind", [CODE, "a" * 1_000_000, "Conv2d()", "torch", None, 5, ["Conv2d"], "Conv2d\n", torch.nn]
)
def test_types(tmp_path, theirs, kind):
    if kind is torch.nn:
        kind = {"Conv2d": "Conv2d"}
    assert "is a Conv2d, the file says" in refused(changed(theirs, lambda content: first(content).update(type=kind)))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ([-3, 4], "positive whole numbers"),
        ([0, 4], "positive whole numbers"),
        ([3, 0], "positive whole numbers"),
        ([3.0, 4.0], "positive whole numbers"),
        ([True, 4], "positive whole numbers"),
        (["3", "4"], "positive whole numbers"),
        ([None, 4], "positive whole numbers"),
        ([[3], [4]], "positive whole numbers"),
        ([float("nan"), 4], "positive whole numbers"),
        ([torch.tensor(3), torch.tensor(4)], "positive whole numbers"),
        (torch.tensor([3, 4]), "positive whole numbers"),
        ("34", "positive whole numbers"),
        (34, "positive whole numbers"),
        (None, "positive whole numbers"),
        ({3: 4}, "positive whole numbers"),
        ([], "a Conv2d has 2 numbers"),
        ([3], "a Conv2d has 2 numbers"),
        ([3, 4, 3, 3], "a Conv2d has 2 numbers"),
        ([3] * 10_000, "a Conv2d has 2 numbers"),
        ([3, 10**18], "the file says [3, 1000000000000000000], its `params` are for [3, 4]"),
        ([10**30, 4], "its `params` are for [3, 4]"),
        ([3, 5], "stem.0: the file says [3, 5], its `params` are for [3, 4]"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_shapes(theirs, shape, told):
    assert told in refused(changed(theirs, lambda content: first(content).update(shape=shape)))


@pytest.mark.parametrize("value", [np.int64(4), np.float64(0.5), np.array([3, 4])], ids=type)
def test_numpy_is_refused_by_name(tmp_path, value):
    content = interface("plain", cut("plain").net)
    content["nas"]["width"] = value
    assert "numpy" in refused(write(tmp_path / "i.pt", content))


class Program:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self):
        return print, ("executed",)


def test_pickled_code_is_refused_by_name(tmp_path, capsys):
    content = interface("plain", cut("plain").net)
    content["nas"]["width"] = Program()
    text = refused(write(tmp_path / "i.pt", content))
    assert "print" in text
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- the grammar itself


def test_the_grammar():
    assert parsed("blocks[1].conv2.conv.weight") == ("blocks", "1", "conv2", "conv", "weight")
    assert parsed("blocks.1.conv2") == ("blocks", "1", "conv2")
    assert parsed("[0][1].weight") == parsed("0.1.weight") == ("0", "1", "weight")
    assert parsed("a.0.b") == parsed("a[0].b") == ("a", "0", "b")
    assert parsed("branches.3x3.conv-1") == ("branches", "3x3", "conv-1")
    for name, written in {
        "a.0.1.b": "a[0][1].b",
        "0": "[0]",
        "0.12.w": "[0][12].w",
        "a1.b2": "a1.b2",
        "a.3x3": "a.3x3",
    }.items():
        assert bracketed(name) == written
        assert ".".join(parsed(written)) == name
    for wrong in ("a[b]", "a[0]b", "a.", ".a", "a[1.2]", "a[0].", "a[ 0]", "a[]"):
        with pytest.raises(ModelError, match="is no name of a parameter"):
            parsed(wrong)


def test_owners():
    net = nn.Sequential(OrderedDict(a=nn.Sequential(nn.Linear(2, 2, bias=False)), n=nn.BatchNorm1d(2)))
    assert owner(net, "a[0].weight") == (net.a[0], "weight")
    assert owner(net, "a.0") == (net.a[0], None)
    assert owner(net, "n.running_mean") == (net.n, "running_mean")
    for wrong in ("a[0].bias", "a[0].weight.T", "a[1]", "n.eps", "n.forward", "a[00].weight"):
        with pytest.raises(ModelError, match="the network has no"):
            owner(net, wrong)
