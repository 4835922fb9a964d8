"""Files that we write: plain values, nothing lost, read back equal by us and by the users' old reader; several prunings in one file."""

from __future__ import annotations

import copy
import itertools
import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunecore
from tests.plugins.loaders.interface_files import (
    BUILDERS,
    RESULT,
    changed,
    foreign,
    interface,
    load,
    loader,
    old_entries,
    old_reader,
    ours,
    refused,
    resize_of,
    runs,
    same,
    save,
    write,
)
from tests.plugins.loaders.interface_nets import HAND, build, cut, outputs

LIBRARIES = ("OFAMobileNetV3", "OFAResNets", "test_efficientnet_gn", "test_convnext", "test_mambaout", "test_vit")


@pytest.mark.parametrize("dialect", ["old", "new"])
@pytest.mark.parametrize("name", [*HAND, *LIBRARIES])
def test_what_we_write_we_read(tmp_path, name, dialect):
    pruned = cut(name)
    path = ours(tmp_path, pruned, dialect)
    assert path == tmp_path / "out" / "interface.pt"
    model = load(path).model
    assert same(outputs(model, pruned.x), pruned.outputs)
    own, theirs = model.state_dict(), pruned.pruned.state_dict()
    assert all(same(own[n], theirs[n]) for n in theirs)
    numbers = [(n, k, v) for n, m in pruned.pruned.named_modules() for k, v in vars(m).items() if type(v) is int]
    assert numbers == [(n, k, getattr(model.get_submodule(n), k)) for n, k, _ in numbers]


def test_only_plain_values_are_written(tmp_path):
    pruned = cut("plain")
    source = write(tmp_path / "source.pt", interface("plain", pruned.net))
    result = {"size": np.float64(0.5), "val_accuracy": np.float32(0.75), "time": "0h 0m 1s", "seed": 3}
    loaded = load(source)
    path = loader(source).prune_save_model(loaded, pruned.pruned, pruned.recipe, result, tmp_path / "out")

    def plain(value: object) -> bool:
        if type(value) in (dict, OrderedDict):
            return all(type(k) is str and plain(v) for k, v in value.items())
        if type(value) in (list, tuple):
            return all(map(plain, value))
        return type(value) in (int, float, str, bool, Tensor)

    content = torch.load(path, weights_only=True)
    assert plain(content)
    assert all(not v.requires_grad and v.is_contiguous() for v in content["params"].values())
    summary = content["pruning"]["summary"]
    assert summary["size"] == 0.5
    assert summary["val_accuracy"] == 0.75
    assert summary["time"] == "0h 0m 1s"
    assert content["pruning"]["is_pruning"] is True
    with zipfile.ZipFile(path) as archive:
        pickle = archive.read("interface/data.pkl") if "interface/data.pkl" in archive.namelist() else None
        pickle = pickle or archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    named = {argument for operation, argument, _ in pickletools.genops(pickle) if operation.name == "GLOBAL"}
    assert named == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
    }


def test_what_we_do_not_know_is_carried_through_in_order(tmp_path):
    pruned = cut("plain")
    odd = OrderedDict(
        first={"a": [1, 2.5, "x", None, True], 3: (4, 5)},
        nas={"algname": "zoo", "net": "plain", "extra": {"z": 1, "a": [torch.arange(3)]}, 7: "seven"},
        between=torch.arange(4, dtype=torch.int16),
        pruning={"note": "theirs", "is_pruning": False, "summary": {"unit": "MACs", "size": 1.0, "more": [1]}},
        params=OrderedDict(pruned.net.state_dict()),
        last="end",
    )
    source = write(tmp_path / "source.pt", odd)
    path = save(source, pruned.net, pruned.pruned, pruned.recipe, tmp_path / "out")
    content = torch.load(path, weights_only=True)
    assert list(content) == ["first", "nas", "between", "pruning", "params", "last", "prunecore"]
    assert content["first"] == odd["first"]
    assert content["last"] == "end"
    assert torch.equal(content["between"], odd["between"])
    assert list(content["nas"]) == list(odd["nas"])
    assert content["nas"][7] == "seven"
    assert torch.equal(content["nas"]["extra"]["a"][0], torch.arange(3))
    assert list(content["pruning"]) == ["note", "is_pruning", "summary"]
    assert list(content["pruning"]["summary"]) == ["unit", "size", "more", "val_accuracy", "resize", "time"]
    assert content["pruning"]["note"] == "theirs"
    assert same(outputs(load(path).model, pruned.x), pruned.outputs)


def test_the_source_and_the_networks_are_left_as_they_were(tmp_path):
    pruned = cut("plain")
    source = write(tmp_path / "source.pt", interface("plain", pruned.net))
    before, states = source.read_bytes(), copy.deepcopy([pruned.net.state_dict(), pruned.pruned.state_dict()])
    path = save(source, pruned.net, pruned.pruned, pruned.recipe, tmp_path / "out")
    assert source.read_bytes() == before
    for state, net in zip(states, (pruned.net, pruned.pruned), strict=True):
        assert all(same(v, state[n]) for n, v in net.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["interface.pt"]


def test_the_older_dialect_is_the_default_and_both_are_what_the_old_tool_writes(tmp_path):
    for name in ("plain", "sequential"):
        pruned = cut(name)
        assert resize_of(ours(tmp_path / name, pruned)) == old_entries(pruned.net, pruned.pruned, "old")
        path = ours(tmp_path / f"{name}-new", pruned, "new")
        assert resize_of(path) == old_entries(pruned.net, pruned.pruned, "new")


@pytest.mark.parametrize("name", ["plain", "OFAResNets", "test_resnet"])
def test_the_old_reader_rebuilds_what_we_write(tmp_path, name):
    pruned = cut(name)
    theirs = old_reader(ours(tmp_path, pruned), build(name))
    assert same(outputs(theirs, pruned.x), pruned.outputs)


def test_no_entry_shares_a_list_with_another(tmp_path):
    entries = resize_of(ours(tmp_path, cut("sequential")))
    lists = [id(e[key]) for e in entries for key in ("shape", "orig_shape")]
    assert len(set(lists)) == len(lists)


# ---------------------------------------------------------------- again and again


def further(model: nn.Module, x: Tensor, reduce: float = 0.2) -> prunecore.api.Pruned:
    return prunecore.prune(model, x, reduce=reduce, algo="random")


AGAIN = {
    "plain": "new",
    "grouped": "old",
    "tied": "new",
    "unexpressible": "old",
    "norms": "new",
    "reparametrized": "old",
}


@pytest.mark.parametrize("name", AGAIN)
def test_pruned_twice_and_three_times(tmp_path, name):
    pruned, dialect = cut(name), AGAIN[name]
    path = ours(tmp_path, pruned, dialect)
    start = [*resize_of(path)]
    for number in range(2):
        loaded = load(path)
        more = further(loaded.model, pruned.x)
        path = save(path, loaded.model, more.model, more.recipe, tmp_path / f"{number}", dialect)
        assert same(outputs(load(path).model, pruned.x), outputs(more.model, pruned.x))
        assert resize_of(path)[: len(start)] == start
        assert len(resize_of(path)) > len(start)
        start = [*resize_of(path)]
    content = torch.load(path, weights_only=True)
    assert len(content["prunecore"]["segments"]) == 3
    assert len(content["pruning"].get("prunecore", ())) == (3 if name == "unexpressible" else 0)
    last = load(path)
    whole = sum(p.numel() for p in pruned.net.parameters())
    assert last.provenance["original"]["params"] == whole > sum(p.numel() for p in last.model.parameters())


def theirs(path, target, x, dialect):
    """The old tool prunes the network of `path` further and appends its entries."""
    before = load(path).model
    after = further(before, x).model

    def append(content):
        pruning = content.setdefault("pruning", {"is_pruning": True, "summary": {"resize": []}})
        pruning["summary"]["resize"] += old_entries(before, after, dialect)
        content["params"] = OrderedDict(after.state_dict())

    return changed(path, append, target), after


@pytest.mark.parametrize("name", ["grouped", "tied", "names"])
def test_another_tool_before_between_and_after(tmp_path, name):
    x = cut(name).x
    path = write(tmp_path / "0.pt", interface(name, cut(name).net))
    turns = ("theirs old", "ours old", "theirs new", "ours new", "theirs old")
    for number, (who, dialect) in enumerate(map(str.split, turns)):
        if who == "theirs":
            path, net = theirs(path, tmp_path / f"{number}.pt", x, dialect)
        else:
            loaded = load(path)
            more = further(loaded.model, x)
            path, net = save(path, loaded.model, more.model, more.recipe, tmp_path / f"{number}", dialect), more.model
        assert same(outputs(load(path).model, x), outputs(net, x)), (number, who)
    segments = torch.load(path, weights_only=True)["prunecore"]["segments"]
    ends = [0, *(s[key] for s in segments for key in ("start", "end")), len(resize_of(path))]
    assert len(ends) == 6
    assert all(a < b for a, b in itertools.pairwise(ends))


def test_a_tool_that_drops_our_part_loses_nothing_where_the_list_says_it_all(tmp_path):
    pruned = cut("plain")
    path = changed(ours(tmp_path, pruned), lambda content: content.pop("prunecore"))
    assert same(outputs(load(path).model, pruned.x), pruned.outputs)


def test_a_tool_that_drops_our_part_is_noticed_where_the_list_does_not(tmp_path):
    pruned = cut("unexpressible")
    path = ours(tmp_path, pruned)
    assert "a recipe is gone that the network cannot be rebuilt without" in refused(
        changed(path, lambda content: content.pop("prunecore"), tmp_path / "a.pt")
    )
    loaded = load(path)
    more = further(loaded.model, pruned.x)
    again = save(path, loaded.model, more.model, more.recipe, tmp_path / "again")
    for number in (0, 1):
        text = refused(changed(again, lambda c, n=number: c["prunecore"]["segments"].pop(n), tmp_path / "b.pt"))
        assert "take the original file" in text


def test_a_tool_that_writes_the_pruning_anew_keeps_our_part(tmp_path):
    pruned = cut("unexpressible")
    path = ours(tmp_path, pruned)

    def anew(content):
        content["pruning"] = {"is_pruning": True, "summary": {"resize": content["pruning"]["summary"]["resize"]}}

    assert same(outputs(load(changed(path, anew)).model, pruned.x), pruned.outputs)


def test_a_foreign_file_pruned_by_us(tmp_path):
    pruned = cut("grouped")
    path = foreign(tmp_path / "i.pt", pruned, "new")
    loaded = load(path)
    more = further(loaded.model, pruned.x)
    again = save(path, loaded.model, more.model, more.recipe, tmp_path / "out")
    assert same(outputs(load(again).model, pruned.x), outputs(more.model, pruned.x))
    assert {e["name"] for e in resize_of(again)} >= {"grouped", "grouped.weight"}


def test_a_network_that_was_only_trained(tmp_path):
    pruned = cut("plain")
    path = ours(tmp_path, pruned)
    trained = copy.deepcopy(load(path).model)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    again = save(path, load(path).model, trained, prunecore.Recipe(), tmp_path / "again")
    assert resize_of(again) == resize_of(path)
    assert same(outputs(load(again).model, pruned.x), outputs(trained, pruned.x))


def test_a_run_starts_from_what_is_written(tmp_path):
    pruned = cut("unexpressible")
    loaded = load(ours(tmp_path, pruned))
    assert runs(loaded) is loaded.model
    assert prunecore.prune(loaded.model, loaded.inputs, reduce=0.1).certificate.verified


def test_nothing_is_written_where_the_file_cannot_be_read(tmp_path):
    pruned = cut("plain")
    source = write(tmp_path / "source.pt", interface("plain", pruned.net))
    loaded = load(source, BUILDERS)
    source.write_bytes(b"PK damaged")
    with pytest.raises(prunecore.ModelError, match=r"source\.pt: is no file of torch\.save"):
        loader(source).prune_save_model(loaded, pruned.pruned, pruned.recipe, RESULT, tmp_path / "out")
    assert not (tmp_path / "out").exists()
