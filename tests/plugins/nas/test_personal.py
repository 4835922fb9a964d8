"""Networks that the user's own code builds: from trusted places only, as the file or the user names them."""

from __future__ import annotations

import itertools
import sys
from collections import OrderedDict

import pytest
import torch
from prunecore_plugins.nas.ofa import OFABuilder
from prunecore_plugins.nas.personal import PersonalBuilder
from torch import nn

from prunecore import ConfigError, ModelError
from prunecore.registry import Choice, build_manager
from prunecore.run.loading import load_model
from tests.plugins.loaders.interface_files import load, loader, old_entries, refused, same, write
from tests.plugins.loaders.interface_nets import cut, outputs

BUILDERS = {**PersonalBuilder().prune_nas_builders(), **OFABuilder().prune_nas_builders()}
NUMBERS = itertools.count()

NETS = """
from os import system
from torch import nn
from tests.plugins.loaders.interface_nets import Plain

CALLS = []
seven = 7

def net(**args):
    CALLS.append(args)
    return Plain()

def build_net(interface, pretrained, num_classes):
    CALLS.append((interface, pretrained, num_classes))
    interface["nas"].clear()
    interface["params"].clear()
    interface.clear()
    return Plain()

def fails():
    raise RuntimeError("first line\\nsecond line " + "x" * 5000)

def number():
    return 7
"""


@pytest.fixture
def name():
    """A module's name that no other test imports."""
    found = f"own_nets_{next(NUMBERS)}"
    yield found
    for module in [m for m in sys.modules if m.partition(".")[0] in (found, "interfaces")]:
        del sys.modules[module]


@pytest.fixture
def code(tmp_path, name):
    """A directory of the user's with a module, and with the usual `interfaces.tools`."""
    home = tmp_path / "code"
    (home / "interfaces").mkdir(parents=True)
    (home / f"{name}.py").write_text(NETS)
    (home / "interfaces" / "tools.py").write_text(NETS)
    return home


def file(path, nas, net=None, entries=()):
    params = OrderedDict((net or cut("plain").net).state_dict())
    pruning = {"pruning": {"is_pruning": True, "summary": {"resize": list(entries)}}} if entries else {}
    return write(path, OrderedDict(nas={"algname": "personal", **nas}, params=params, **pruning))


def right(loaded):
    return same(outputs(loaded.model, cut("plain").x), outputs(cut("plain").net, cut("plain").x))


# ---------------------------------------------------------------- builder: file.py:callable


@pytest.mark.parametrize("args", [{"width": 8, "deep": [1, {"a": None}]}, '{"width": 8, "deep": [1, {"a": null}]}'])
def test_a_builder_in_a_file(tmp_path, code, name, args):
    path = file(code / "i.pt", {"builder": f"{name}.py:net", "args": args})
    path_before = list(sys.path)
    assert right(load(path, BUILDERS, trust_code=code))
    assert sys.modules[name].CALLS == [{"width": 8, "deep": [1, {"a": None}]}]
    assert sys.path == path_before


def test_a_builder_without_arguments_beside_the_file(code, name):
    path = file(code / "i.pt", {"builder": f"{name}.py:net"})
    assert right(load(path, BUILDERS, trust_code=True))
    assert sys.modules[name].CALLS == [{}]


def test_a_builder_in_a_folder_below(tmp_path, code, name):
    (code / "deep").mkdir()
    (code / "deep" / f"{name}.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")
    path = file(tmp_path / "i.pt", {"builder": f"code/deep/{name}.py:net"}, nn.Linear(2, 2))
    assert isinstance(load(path, BUILDERS, trust_code=code).model, nn.Linear)
    del sys.modules["deep"], sys.modules[f"deep.{name}"]


def test_a_pruned_network(tmp_path, code, name):
    pruned = cut("plain")
    entries = old_entries(pruned.net, pruned.pruned, "old")
    path = file(code / "i.pt", {"builder": f"{name}.py:net"}, pruned.pruned, entries)
    loaded = load(path, BUILDERS, trust_code=code)
    assert same(outputs(loaded.model, pruned.x), pruned.outputs)
    out = loader(path, trust_code=code).prune_save_model(
        loaded, loaded.model, pruned.recipe.__class__(), {"size": 1, "val_accuracy": 0, "time": ""}, tmp_path / "out"
    )
    assert torch.load(out, weights_only=True)["nas"] == {"algname": "personal", "builder": f"{name}.py:net"}


# ---------------------------------------------------------------- nas_builder: package.module:callable


def test_the_usual_entry_point(code):
    path = file(code / "i.pt", {"net_config": {"width": 3}})
    content = torch.load(path, weights_only=True)
    assert right(load(path, BUILDERS, trust_code=code, num_classes=5))
    ((interface, pretrained, classes),) = sys.modules["interfaces.tools"].CALLS
    assert (
        interface == {}
    )  # the function emptied what it was given, which the network was then loaded from all the same
    assert (pretrained, classes) == (False, 5)
    assert list(torch.load(path, weights_only=True)["nas"].items()) == list(content["nas"].items())


def test_what_the_function_is_given(code, name):
    (code / f"{name}.py").write_text(NETS + "\ndef kept(**given):\n    CALLS.append(given)\n    return Plain()\n")
    pruned = cut("plain")
    entries = old_entries(pruned.net, pruned.pruned, "new")
    path = file(code / "i.pt", {"nas_builder": f"{name}:kept", "extra": [1, {"a": 2}]}, pruned.pruned, entries)
    load(path, BUILDERS, trust_code=code)
    (given,) = sys.modules[name].CALLS
    assert list(given) == ["interface", "pretrained", "num_classes"]
    assert given["pretrained"] is False
    assert given["num_classes"] is None
    assert list(given["interface"]) == ["nas", "params"]  # as the search wrote it: prunings are repeated by us
    assert given["interface"]["nas"] == {"algname": "personal", "nas_builder": f"{name}:kept", "extra": [1, {"a": 2}]}


def test_the_option_wins_over_the_file(code, name):
    for nas in ({"algname": "unheard"}, {"builder": "missing.py:net"}, {"nas_builder": "missing:net"}):
        path = file(code / "i.pt", nas)
        assert right(load(path, BUILDERS, trust_code=code, nas_builder=f"{name}:build_net"))
        assert right(load(path, BUILDERS, trust_code=code, nas_builder=f"{name}.py:build_net"))
    assert load(path, BUILDERS, trust_code=code, nas_builder=f"{name}:build_net").provenance["algname"] == "personal"


def test_a_trusted_package(tmp_path):
    path = file(tmp_path / "i.pt", {"nas_builder": "prunecore_plugins.nas.personal:build"})
    assert "failed: TypeError" in refused(path, BUILDERS, trust_package="prunecore_plugins")
    assert "--trust-package" in refused(file(tmp_path / "j.pt", {"nas_builder": "timm.models:create_model"}), BUILDERS)


# ---------------------------------------------------------------- what is not trusted


@pytest.mark.parametrize("nas", [{"builder": "{}.py:net"}, {"nas_builder": "{}:build_net"}, {}])
def test_code_that_is_not_trusted_names_the_flag_and_is_not_imported(code, name, nas):
    marker = code / "marker"
    for source in (code / f"{name}.py", code / "interfaces" / "tools.py"):
        source.write_text(f"open({str(marker)!r}, 'w')\n{NETS}")
    path = file(code / "i.pt", {key: value.format(name) for key, value in nas.items()})
    text = refused(path, BUILDERS)
    assert f"--trust-code {code}" in text
    assert "is code that is not trusted" in text
    assert not marker.exists()
    assert not {name, "interfaces"} & sys.modules.keys()


@pytest.mark.parametrize("way", ["dots", "absolute", "symlink", "folder link", "other case"])
def test_a_builder_outside_of_the_trusted_directory(tmp_path, code, name, way):
    outside = tmp_path / "outside"
    outside.mkdir()
    marker = tmp_path / "marker"
    (outside / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n{NETS}")
    (code / "link.py").symlink_to(outside / "evil.py")
    (code / "folder").symlink_to(outside)
    spec = {
        "dots": "../outside/evil.py:net",
        "absolute": f"{outside}/evil.py:net",
        "symlink": "link.py:net",
        "folder link": "folder/evil.py:net",
        "other case": "../OUTSIDE/evil.py:net",
    }[way]
    text = refused(file(code / "i.pt", {"builder": spec}), BUILDERS, trust_code=code)
    assert "is code that is not trusted" in text
    assert "--trust-code" in text
    for module in ("link", "folder.evil"):
        refused(file(code / "i.pt", {"nas_builder": f"{module}:net"}), BUILDERS, trust_code=code)
    assert not marker.exists()
    assert {"evil", "link", "folder", "folder.evil"} & sys.modules.keys() == set()


@pytest.mark.parametrize(
    ("builder", "told"),
    [
        ("{}.py:system", ""),  # the user's module imports it, a file may not call it
        ("{}.py:nn", ""),
        ("{}.py:seven", ""),
        ("{}.py:__import__", ""),
        ("{}.py:__class__", ""),
        ("{}.py:nn.Linear", "expected `module:callable` or `file.py:callable`"),
        ("{}.py:net()", "expected `module:callable` or `file.py:callable`"),
        ("{}.py", "expected `module:callable` or `file.py:callable`"),
        ("{}:system", ""),
        ("os:system", "is code that is not trusted"),
        ("builtins:eval", "is code that is not trusted"),
        ("__main__:net", ""),
        ("subprocess:run", "is code that is not trusted"),
        ("{}.py:absent", "has no 'absent'"),
        ("missing.py:net", "there is no such file"),
        ("a\0b.py:net", "is no path of a file"),
        ("x" * 100_000 + ".py:net", ""),
        ("x\ny.py:net", ""),
        ("", "expected `module:callable` or `file.py:callable`"),
        (":", "expected `module:callable` or `file.py:callable`"),
        (7, "expected `module:callable` or `file.py:callable`"),
        (["{}.py:net"], ""),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_a_file_may_not_call(code, name, builder, told):
    builder = builder.format(name) if isinstance(builder, str) else builder
    marker = code / "marker"
    nas = {"builder": builder, "args": {"command": f"touch {marker}"}}
    assert told in refused(file(code / "i.pt", nas), BUILDERS, trust_code=code)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("{", "nas.args: is no JSON: JSONDecodeError"),
        ("[" * 100_000, "nas.args: is no JSON: RecursionError"),
        ("[1]", "nas.args: expected keyword arguments, got [1]"),
        ([1, 2], "nas.args: expected keyword arguments, got [1, 2]"),
        ({1: 2}, "nas.args: expected keyword arguments, got {1: 2}"),
        ({"a b": 2}, "nas.args: expected keyword arguments"),
        ({"": 2}, "nas.args: expected keyword arguments"),
        (7, "nas.args: expected keyword arguments, got 7"),
        ({"x" * 10**6: torch.zeros(9, 9)}, "failed: "),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_arguments(code, name, args, told):
    (code / f"{name}.py").write_text(f"{NETS}\ndef fixed(width=1):\n    return Plain()\n")
    path = file(code / "i.pt", {"builder": f"{name}.py:fixed", "args": args})
    assert told in refused(path, BUILDERS, trust_code=code)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("fails", "fails failed: RuntimeError: first line second line xxx"),
        ("number", "number gave a int, expected a torch.nn.Module"),
    ],
)
def test_code_that_fails(code, name, function, told):
    assert told in refused(file(code / "i.pt", {"builder": f"{name}.py:{function}"}), BUILDERS, trust_code=code)


def test_a_module_that_cannot_be_imported(code, name):
    (code / f"{name}.py").write_text("import no_such_module_at_all\n")
    text = refused(file(code / "i.pt", {"builder": f"{name}.py:net"}), BUILDERS, trust_code=code)
    assert "No module named 'no_such_module_at_all'" in text


def test_a_name_that_is_taken_is_refused(code):
    (code / "json.py").write_text(NETS)
    path = file(code / "i.pt", {"builder": "json.py:net"})
    with pytest.raises((ConfigError, ModelError), match="json"):
        load(path, BUILDERS, trust_code=code)


def test_a_network_with_other_weights_than_the_file(code, name):
    (code / f"{name}.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")
    text = refused(file(code / "i.pt", {"builder": f"{name}.py:net"}), BUILDERS, trust_code=code)
    assert "params: the network has weight, bias, the file does not" in text


def test_the_loader_option_through_the_registry(code, name):
    path = file(code / "i.pt", {"algname": "unheard"})
    options = {"nas_builder": f"{name}:build_net", "trust_code": [str(code)], "num_classes": 4}
    choice = Choice("loader", "interface", {"source": str(path), "size": [32, 32], **options}, "model")
    assert right(load_model(build_manager([choice]).hook, "interface", seed=0))
    assert sys.modules[name].CALLS[0][1:] == (False, 4)
