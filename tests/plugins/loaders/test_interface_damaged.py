"""Damaged interface files, part by part: one line that names the file and the fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from prunecore_plugins.loaders.interface.segments import digest

from tests.plugins.loaders.interface_files import (
    changed,
    foreign,
    interface,
    loader,
    ours,
    refused,
    resize,
    save,
    write,
)
from tests.plugins.loaders.interface_nets import build, cut

# ---------------------------------------------------------------- wrong types at every level


def put(*path, value):
    def change(content):
        at = content
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def drop(*path):
    def change(content):
        at = content
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


SUMMARY = ("pruning", "summary")
STRUCTURE = {
    "no nas": (drop("nas"), "`nas` and `params`"),
    "no params": (drop("params"), "`nas` and `params`"),
    "nas a list": (put("nas", value=["ofa"]), "nas: expected a mapping"),
    "nas None": (put("nas", value=None), "nas: expected a mapping"),
    "nas empty": (put("nas", value={}), "algname None; there are builders for zoo"),
    "algname a list": (put("nas", "algname", value=["zoo"]), "algname ['zoo']; there are builders for zoo"),
    "algname misspelt": (put("nas", "algname", value="zo"), "algname 'zo', did you mean 'zoo'?"),
    "algname long": (put("nas", "algname", value="z" * 10**6), "there are builders for zoo"),
    "algname lines": (put("nas", "algname", value="a\nb"), "there are builders for zoo"),
    "params a list": (put("params", value=[torch.zeros(1)]), "params: expected tensors by name"),
    "params a tensor": (put("params", value=torch.zeros(3, 3)), "params: expected tensors by name"),
    "params of numbers": (put("params", "stem.0.weight", value=1.5), "params: expected tensors by name"),
    "params without names": (put("params", 5, value=torch.zeros(1)), "params: expected tensors by name"),
    "pruning a list": (put("pruning", value=[1]), "expected summary.resize to be a list"),
    "pruning a string": (put("pruning", value="yes"), "expected summary.resize to be a list"),
    "summary a list": (put(*SUMMARY, value=[1]), "expected summary.resize to be a list"),
    "resize a mapping": (put(*SUMMARY, "resize", value={"a": 1}), "expected summary.resize to be a list"),
    "resize a string": (put(*SUMMARY, "resize", value="abc"), "expected summary.resize to be a list"),
    "resize None": (put(*SUMMARY, "resize", value=None), "expected summary.resize to be a list"),
    "resize a number": (put(*SUMMARY, "resize", value=3), "expected summary.resize to be a list"),
    "an entry a string": (put(*SUMMARY, "resize", 0, value="abc"), "resize[0]: expected name, type and shape"),
    "an entry a list": (put(*SUMMARY, "resize", 1, value=["name", "type", "shape"]), "resize[1]: expected name"),
    "an entry None": (put(*SUMMARY, "resize", 2, value=None), "resize[2]: expected name, type and shape"),
    "an entry a tensor": (put(*SUMMARY, "resize", 2, value=torch.zeros(9, 9)), "resize[2]: expected name, type"),
    "no name": (drop(*SUMMARY, "resize", 0, "name"), "resize[0]: expected name, type and shape"),
    "no type": (drop(*SUMMARY, "resize", 0, "type"), "resize[0]: expected name, type and shape"),
    "no shape": (drop(*SUMMARY, "resize", 0, "shape"), "resize[0]: expected name, type and shape"),
    "no resize": (drop(*SUMMARY, "resize"), "no entry says so"),
    "no pruning": (drop("pruning"), "no entry says so"),
    "entry of the network": (
        put(*SUMMARY, "resize", 0, "name", value="blocks"),
        "blocks is a ModuleList, which a resize",
    ),
    "ours a list": (put("prunecore", value=[1]), "prunecore: expected segments"),
    "ours empty": (put("prunecore", value={}), "prunecore: expected segments"),
    "segments empty": (put("prunecore", value={"segments": []}), "prunecore: expected segments"),
    "segments text": (put("prunecore", value={"segments": "abc"}), "prunecore: expected segments"),
    "a segment text": (put("prunecore", value={"segments": ["abc"]}), "a segment is damaged"),
    "a segment empty": (put("prunecore", value={"segments": [{}]}), "a segment is damaged"),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_structure(theirs, case):
    change, told = STRUCTURE[case]
    assert told in refused(changed(theirs, change))


@pytest.mark.parametrize("found", [None, 5, "text", [1, 2], torch.zeros(2, 2), {}, {"a\nb": 1, 3: 2}], ids=repr)
def test_other_files(tmp_path, found):
    assert "expected a mapping with `nas` and `params`, got" in refused(write(tmp_path / "i.pt", found))


def test_no_such_file_and_no_torch_file(tmp_path):
    assert "there is no such file" in refused(tmp_path / "i.pt")
    (tmp_path / "j.pt").write_text("nas: ofa\n")
    assert "no file of torch.save" in refused(tmp_path / "j.pt")
    whole = write(tmp_path / "k.pt", interface("plain", cut("plain").net)).read_bytes()
    for cut_at in (10, 100, len(whole) // 2, len(whole) - 5):
        (tmp_path / "l.pt").write_bytes(whole[:cut_at])
        refused(tmp_path / "l.pt")


# ---------------------------------------------------------------- params


PARAMS = {
    "missing": (drop("params", "blocks.0.weight"), "the network has blocks.0.weight, the file does not"),
    "extra": (
        put("params", "blocks.2.weight", value=torch.zeros(1)),
        "the file has blocks.2.weight, the network does not",
    ),
    "a long name": (put("params", "b" * 10**6, value=torch.zeros(1)), "the file has bbbb"),
    "a name of lines": (put("params", "a\nb", value=torch.zeros(1)), "the network does not"),
    "another shape": (put("params", "blocks.0.weight", value=torch.zeros(5, 4, 1, 1)), "its `params` are for [4, 5]"),
    "another kernel": (
        put("params", "blocks.0.weight", value=torch.zeros(6, 4, 3, 3)),
        "blocks.0 has kernels of [1, 1]",
    ),
    "fewer dims": (put("params", "blocks.0.weight", value=torch.zeros(6, 4)), "is (8, 8, 1, 1) float32 in the network"),
    "no dims": (put("params", "norm.weight", value=torch.tensor(1.0)), "norm.weight is (8,) float32 in the network"),
    "one bias for all": (
        put("params", "classifier.bias", value=torch.zeros(1)),
        "classifier.bias should have shape [5]",
    ),
    "one scale for all": (put("params", "norm.weight", value=torch.zeros(1)), "norm: the file says [7]"),
    "one shift for all": (put("params", "norm.bias", value=torch.zeros(1)), "norm.bias should have shape [7]"),
    "one mean for all": (
        put("params", "norm.running_mean", value=torch.zeros(1)),
        "norm.running_mean should have shape [7]",
    ),
    "whole numbers": (put("params", "norm.weight", value=torch.ones(7, dtype=torch.int64)), "(7,) int64 in the file"),
    "a float counter": (put("params", "norm.num_batches_tracked", value=torch.tensor(1.0)), "() float32 in the file"),
    "sparse": (put("params", "norm.weight", value=torch.ones(7).to_sparse()), "params: expected tensors by name"),
    "on no device": (put("params", "norm.weight", value=torch.ones(7, device="meta")), "params"),
    "empty": (put("params", value={}), "the network has stem.0.weight, stem.1.weight"),
}


@pytest.mark.parametrize("case", PARAMS)
def test_params(theirs, case):
    change, told = PARAMS[case]
    assert told in refused(changed(theirs, change))


@pytest.mark.parametrize("case", ["gain", "offset"])
def test_parameters_that_are_no_layers_cannot_be_checked_in_foreign_files_but_in_ours(tmp_path, case):
    path = changed(ours(tmp_path, cut("names")), put("params", case, value=torch.ones(1, 1, 1)))
    assert f"'{case}' has shape (1, 1, 1), the recipe ends with (4, 1, 1)" in refused(path)


# ---------------------------------------------------------------- our own part


def segment(content):
    return content["prunecore"]["segments"][0]


def recipe(content, change):
    loaded = json.loads(segment(content)["recipe"])
    change(loaded)
    segment(content)["recipe"] = json.dumps(loaded)


OURS = {
    "digest changed": lambda c: segment(c).update(digest="0" * 64),
    "digest of another type": lambda c: segment(c).update(digest=None),
    "start below zero": lambda c: segment(c).update(start=-1),
    "start after the end": lambda c: segment(c).update(start=10**9),
    "end after the list": lambda c: segment(c).update(end=10**9),
    "end early": lambda c: segment(c).update(end=1),
    "end true": lambda c: segment(c).update(end=True),
    "start a float": lambda c: segment(c).update(start=0.0),
    "start text": lambda c: segment(c).update(start="0"),
    "a key more": lambda c: segment(c).update(more=1),
    "a key less": lambda c: segment(c).pop("start"),
    "twice": lambda c: c["prunecore"]["segments"].append(dict(segment(c))),
    "recipe a mapping": lambda c: segment(c).update(recipe={}),
    "recipe empty": lambda c: segment(c).update(recipe=""),
    "recipe cut off": lambda c: segment(c).update(recipe=segment(c)["recipe"][:-7]),
    "recipe deep": lambda c: segment(c).update(recipe="[" * 10**6),
    "recipe deep inside": lambda c: segment(c).update(
        recipe=segment(c)["recipe"][:-1] + ', "more": ' + "[" * 2000 + "]" * 2000 + "}"
    ),
    "recipe huge number": lambda c: segment(c).update(recipe="9" * 10**5),
    "recipe other": lambda c: segment(c).update(recipe='{"format": "pickle"}'),
    "recipe version": lambda c: recipe(c, lambda r: r.update(version=2)),
    "recipe sha": lambda c: recipe(c, lambda r: r.update(sha256="0")),
    "recipe attribute": lambda c: recipe(c, lambda r: r["attributes"][0].update(new=7)),
    "recipe slice": lambda c: recipe(c, lambda r: r["slices"][0]["kept"].pop()),
    "recipe field": lambda c: recipe(c, lambda r: r.pop("values")),
    "nas changed": lambda c: c["nas"].update(net="grouped"),
    "nas more": lambda c: c["nas"].update(more=1),
    "nas of another type": lambda c: c["nas"].update(width=True),
    "an entry removed": lambda c: resize(c).pop(),
    "entries reordered": lambda c: resize(c).reverse(),
    "an entry twice": lambda c: resize(c).insert(0, resize(c)[0]),
    "an entry's shape": lambda c: resize(c)[0]["shape"].reverse(),
    "an entry's origin": lambda c: resize(c)[0]["orig_shape"].reverse(),
    "an entry's key": lambda c: resize(c)[0].update(more=1),
    "an entry's number true": lambda c: resize(c)[1].update(shape=[True]),
    "marks of nothing": lambda c: c["pruning"].update(prunecore=["0" * 64]),
    "marks a number": lambda c: c["pruning"].update(prunecore=5),
    "marks None": lambda c: c["pruning"].update(prunecore=None),
}


@pytest.fixture(scope="module")
def unexpressible(tmp_path_factory) -> Path:
    source = write(tmp_path_factory.mktemp("ours") / "s.pt", interface("unexpressible", cut("unexpressible").net))
    content = torch.load(source, weights_only=True)
    content["nas"]["width"] = 1
    write(source, content)
    found = cut("unexpressible")
    return save(source, found.net, found.pruned, found.recipe, source.parent / "out")


@pytest.mark.parametrize("case", OURS)
def test_our_own_part(tmp_path, unexpressible, case):
    text = refused(changed(unexpressible, OURS[case], tmp_path / "i.pt"))
    assert "take the original file" in text or "recipe" in text


def test_a_recipe_of_another_network(tmp_path, unexpressible):
    other = torch.load(ours(tmp_path / "other", cut("norms")), weights_only=True)
    path = changed(unexpressible, lambda c: segment(c).update(recipe=segment(other)["recipe"]), tmp_path / "i.pt")
    assert "a recipe is gone that the network cannot be rebuilt without" in refused(path)


def test_numbers_of_the_code_that_changed_are_noticed(tmp_path, unexpressible):
    def other(interface, **_):
        net = build(interface["nas"]["net"])
        net.norm.num_groups = 4
        return net

    path = changed(unexpressible, lambda c: None, tmp_path / "i.pt")
    assert "norm.num_groups is 4, the recipe expects 8" in refused(path, {"zoo": other})


def test_the_digest():
    entry = {"name": "a", "shape": [3, 4]}
    nas = {"a": 1, "b": {"x", "y"}, 3: torch.ones(2), "c": (1, 2)}
    again = {3: torch.ones(2), "c": [1, 2], "b": {"y", "x"}, "a": 1}
    assert digest(nas, [entry]) == digest(again, [{"shape": (3, 4), "name": "a"}])
    others = [
        {**nas, "a": 1.0},
        {**nas, "a": True},
        {**nas, "a": "1"},
        {**nas, 3: torch.zeros(2)},
        {**nas, "c": [2, 1]},
    ]
    others += [
        {**nas, 3: torch.ones(2, dtype=torch.float64)},
        {**nas, "b": {"x"}},
        {**nas, "b": ["x", "y"]},
        {**nas, "d": None},
    ]
    others += [{"3" if k == 3 else k: v for k, v in nas.items()}]
    assert len({digest(other, [entry]) for other in (nas, *others)}) == 1 + len(others)
    assert digest(nas, [entry, entry]) != digest(nas, [entry]) != digest(nas, [])


@pytest.mark.parametrize("wide", [False, True])
def test_a_file_that_is_nested_too_deep(tmp_path, wide):
    content = interface("plain", cut("plain").net)
    deep: list[object] = []
    for _ in range(150):
        deep = [deep, deep] if wide else [deep]
    content["nas"]["deep"] = deep
    assert "nested" in refused(write(tmp_path / "i.pt", content))


# ---------------------------------------------------------------- groups


GROUPS = {
    "depthwise in": ("multiplied", [6, 24], "does not fit its weight [24, 1, 3, 3]"),
    "depthwise out": ("multiplied", [12, 12], "its `params` are for [12, 24]"),
    "more groups": ("grouped", [16, 12], "does not fit its weight [12, 4, 3, 3]"),
    "fewer groups": ("grouped", [4, 12], ""),
    "uneven": ("grouped", [9, 12], "[9, 12]"),
    "none left": ("grouped", [3, 12], "does not fit its weight [12, 4, 3, 3]"),
    "split": ("back", [48, 8], "the file says [48, 8], its `params` are for [24, 8]"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups_that_do_not_fit(tmp_path, case):
    name, shape, told = GROUPS[case]

    def change(content):
        for entry in resize(content):
            if entry["name"].partition(".")[0] == name:
                entry["shape"] = shape

    path = changed(foreign(tmp_path / "i.pt", cut("grouped"), "old"), change)
    if case == "fewer groups":  # a layer like that exists, but not in this network
        model = loader(path).prune_load_model({"zoo": lambda interface, **_: build("grouped")}).model
        assert model.grouped.groups == 1
        with pytest.raises(RuntimeError, match="channels"):
            model(cut("grouped").x)
    else:
        assert told in refused(path)
