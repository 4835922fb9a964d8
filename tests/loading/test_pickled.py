"""Reading pickles within limits, without any loader: what is named, what is refused, what is checked afterwards."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunecore.errors import ModelError
from prunecore.loading import Allowed, check_contents, globals_in, read_pickled
from prunecore.loading.opcodes import uses_in
from tests.loading.damaged import DAMAGED
from tests.loading.hostile import HOSTILE
from tests.loading.making import (
    OWN,
    Calls,
    Scene,
    archive,
    called,
    inside,
    named,
    network,
    old_form,
    rewritten,
    script,
    text,
)

LINEAR = "torch.nn.modules.linear.Linear"


def refusal(path: Path, *allowed: Allowed) -> str:
    with pytest.raises(ModelError) as fault:
        read_pickled(path, allowed)
    assert str(path) in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_hostile_file_runs(scene: Scene, name: str) -> None:
    """Not even to list its names."""
    HOSTILE[name].build(scene.file, scene.marker)
    assert not scene.marker.exists()
    before = scene.files()
    told = refusal(scene.file)
    listed, why = names_or_refusal(scene.file)
    assert listed or why == told  # what cannot be listed cannot be read, for the same reason
    assert scene.files() == before


def names_or_refusal(path: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    try:
        return globals_in(path), ""
    except ModelError as fault:
        return (), str(fault)


@pytest.mark.parametrize("name", [n for n, case in HOSTILE.items() if case.runs])
def test_the_payloads_are_payloads(scene: Scene, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would hold for files that do nothing."""
    monkeypatch.setattr(sys, "path", [str(scene.home), *sys.path])
    importlib.invalidate_caches()
    HOSTILE[name].build(scene.file, scene.marker)
    assert not scene.marker.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):  # what a payload returns need not be a network
            torch.load(scene.file, weights_only=False)
    deadline = time.monotonic() + 5  # Popen does not wait
    while not scene.marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert scene.marker.exists()


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_give_values_or_one_error(scene: Scene, name: str) -> None:
    DAMAGED[name].build(scene.file, scene.marker)
    before = scene.files()
    started = time.monotonic()
    found, told = value_or_refusal(scene.file)
    assert isinstance(found, int | str | dict | torch.Tensor | None)
    assert found is not None or name == "nothing" or str(scene.file) in told
    assert "\n" not in told
    assert time.monotonic() - started < 2
    assert scene.files() == before


def value_or_refusal(path: Path) -> tuple[Any, str]:
    try:
        return read_pickled(path), ""
    except ModelError as fault:
        return None, str(fault)


def test_names_are_listed_in_order_and_by_their_names_of_today(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    inside(path, {"kinds": (set, OrderedDict), "run": os.system})
    found = globals_in(path)
    assert found[0] == ("torch.nn.modules.container", "Sequential")
    assert found.index(("torch.nn.modules.linear", "Linear")) < found.index(("torch.nn.modules.activation", "ReLU"))
    assert {("builtins", "set"), ("collections", "OrderedDict"), ("posix", "system")} <= set(found)
    assert len(set(found)) == len(found)
    inside(tmp_path / "old.pth", {"kinds": (set, OrderedDict), "run": os.system}, _use_new_zipfile_serialization=False)
    assert set(globals_in(tmp_path / "old.pth")) == set(found)


def test_uses_tell_apart_what_is_held_made_and_called(tmp_path: Path) -> None:
    program = script(
        named("torch", "float32"),
        *(b"q\x00", named("a.b", "C"), b"q\x01", b")\x81"),
        *(called(b"h\x01", b"K\x01"), called(named("__builtin__", "set"), b"]")),
        called(named("collections", "Counter"), called(named("x", "f"))),
        called(called(named("x", "f"))),
    )
    (tmp_path / "p").write_bytes(program)
    with (tmp_path / "p").open("rb") as file:
        found = [(use.what.full if use.what else None, use.how) for use in uses_in(file)]
    assert found == [
        ("torch.float32", "held"),
        ("a.b.C", "held"),
        ("a.b.C", "made"),
        ("a.b.C", "called"),
        ("builtins.set", "held"),
        ("builtins.set", "called"),
        ("collections.Counter", "held"),
        ("x.f", "held"),
        ("x.f", "called"),
        ("collections.Counter", "unrolled"),
        ("x.f", "held"),
        ("x.f", "called"),
        (None, "called"),
    ]


def test_what_is_allowed_may_be_used_only_as_it_is_allowed(tmp_path: Path) -> None:
    held, made, made_by_call = (tmp_path / name for name in ("held.pth", "made.pth", "called.pth"))
    torch.save({"kind": nn.Linear}, held)
    archive(made, script(b"}", text("net"), named("torch.nn.modules.linear", "Linear"), b")\x81s"))
    torch.save({"kind": Calls(nn.Linear, 2, 2)}, made_by_call)
    assert f"Unsupported global: GLOBAL {LINEAR}" in refusal(held)
    assert read_pickled(held, [Allowed(nn.Linear, LINEAR)]) == {"kind": nn.Linear}
    assert refusal(made, Allowed(nn.Linear, LINEAR)).endswith(
        f"makes an object of {LINEAR}, which a file may not; it is not read"
    )
    assert "a Linear lacks training" in refusal(made, Allowed(nn.Linear, LINEAR, made=True))
    assert refusal(made_by_call, Allowed(nn.Linear, LINEAR, made=True)).endswith(
        f"calls {LINEAR}, which a file may hold but not call; it is not read"
    )


def test_what_one_file_may_use_no_later_file_may(tmp_path: Path) -> None:
    torch.save({"kind": argparse.Namespace}, tmp_path / "a.pth")
    assert read_pickled(tmp_path / "a.pth", [Allowed(argparse.Namespace, "argparse.Namespace")])
    assert "Unsupported global: GLOBAL argparse.Namespace" in refusal(tmp_path / "a.pth")


def test_nor_may_a_file_use_what_others_let_pass(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    archive(tmp_path / "a.pth", script(called(named("argparse", "Namespace"))))
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert "Unsupported global: GLOBAL argparse.Namespace" in refusal(tmp_path / "a.pth")
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == before


def test_the_environment_cannot_lift_the_limits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    archive(scene.file, script(called(named("os", "system"), text(f"touch {scene.marker}"))))
    assert "os.system" in refusal(scene.file)
    assert not scene.marker.exists()


def test_names_are_judged_by_what_torch_reads(scene: Scene) -> None:
    """Escapes: `o\\x73` is `os` to a disassembler, and six letters to an unpickler."""
    archive(scene.file, script(called(named(r"o\x73", "system"), text(f"touch {scene.marker}"))))
    assert globals_in(scene.file) == (("os", "system"),)
    assert "holds more than plain values" in refusal(scene.file)
    assert not scene.marker.exists()


VALUES: dict[str, Any] = {
    "numbers": {"a": [1, 2.5, None, True, "text", (3, 4)], 5: {6, 7}},
    "torch": {"dtype": torch.float16, "size": torch.Size([2, 3]), "device": torch.device("cpu")},
    "bytes": {"raw": b"\x00\xff", "array": bytearray(b"abc"), "j": 2j},
    "ordered": OrderedDict(b=1, a=OrderedDict()),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old_form"])
@pytest.mark.parametrize("name", VALUES)
def test_plain_values_are_read_as_they_were(tmp_path: Path, name: str, old: bool) -> None:
    torch.save(VALUES[name], tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    found = read_pickled(tmp_path / "x.pth")
    assert found == VALUES[name]
    assert type(found) is type(VALUES[name])


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old_form"])
def test_tensors_share_and_keep_what_they_shared_and_kept(tmp_path: Path, old: bool) -> None:
    whole = torch.arange(12.0)
    bits = torch.tensor([1.5, -2], dtype=torch.bfloat16)
    given = {"whole": whole, "part": whole[4:8], "bits": bits, "image": torch.ones(1, 3, 4, 4)}
    given["image"] = given["image"].contiguous(memory_format=torch.channels_last)
    torch.save(given, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    found = read_pickled(tmp_path / "x.pth")
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert found["bits"].dtype == torch.bfloat16
    assert found["image"].stride() == given["image"].stride()
    found["whole"][5] = 100
    assert found["part"][1] == 100


def test_files_of_other_machines_and_names(tmp_path: Path) -> None:
    """Big-endian, on a GPU that is not here, in a directory of other letters, behind a link."""
    path = tmp_path / "сеть №1.pth"
    rewritten(path, _with("byteorder", b"big"))
    with zipfile.ZipFile(path) as file:
        swapped = next(file.read(n) for n in file.namelist() if n.endswith("/data/0"))
    layers = [
        Allowed(kind, f"{kind.__module__}.{kind.__name__}", made=True) for kind in (nn.Sequential, nn.Linear, nn.ReLU)
    ]
    found = read_pickled(path, layers)
    assert found[0].weight.detach().numpy().byteswap().tobytes() == swapped
    (tmp_path / "link.pth").symlink_to(path)
    assert torch.equal(read_pickled(tmp_path / "link.pth", layers)[0].weight, found[0].weight)
    archive(path, script(_storage("cuda:7")))
    with zipfile.ZipFile(path, "a") as archived:
        archived.writestr("archive/data/0", b"\0\0\x80?")
    assert read_pickled(path).tolist() == [1.0]


def _with(name: str, content: bytes) -> Any:
    return lambda members: {n: (content if n.endswith(name) else b) for n, b in members.items()}


def _storage(device: str) -> bytes:
    """A tensor of one number."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text(device) + b"K\x01tQ"
    hooks = called(named("collections", "OrderedDict"))
    return called(
        named("torch._utils", "_rebuild_tensor_v2"), storage, b"K\x00", b"K\x01\x85", b"K\x01\x85", b"\x89", hooks
    )


def test_another_protocol_is_read_without_a_word_where_it_can_be(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", pickle_protocol=3)
        assert read_pickled(tmp_path / "x.pth")["a"].tolist() == [1, 1]
        torch.save({"a": torch.ones(2)}, tmp_path / "y.pth", pickle_protocol=4)
        assert "STACK_GLOBAL (save it again, with torch.save's own pickle_protocol)" in refusal(tmp_path / "y.pth")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({}, tmp_path / "x.pth")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert refusal(tmp_path / "x.pth").endswith("cannot be read: Permission denied")
    assert "cannot be read: File name too long" in refusal(tmp_path / ("a" * 5000))
    assert "there is no such file" in refusal(tmp_path / "a\0b")


def test_a_pickle_without_end_of_operations_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecore.loading.opcodes._MOST", 1000)
    archive(tmp_path / "x.pth", script(b"]" + b"Na" * 1000))
    assert "its pickle has over 1000 operations" in refusal(tmp_path / "x.pth")


def test_shared_and_expanded_tensors_of_honest_networks_pass(tmp_path: Path) -> None:
    net = network()
    net.register_buffer("ids", torch.arange(8).expand(4, 8))
    net.append(net[0])
    net.__dict__["again"] = [net[0].weight] * 1000
    net.__dict__["parent"] = (net,)
    path = tmp_path / "x.pth"
    torch.save(net, path)
    check_contents(path, net)
    net.register_buffer("more", torch.zeros(1).expand(2**25))
    with pytest.raises(ModelError, match=r"its tensors claim 134\d{6} bytes, the file has \d+"):
        check_contents(path, net)


def test_programs_must_only_be_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    net = network(forward=functools.partial(torch.relu), table=torch.zeros(1).expand(2**30))
    torch.save(network(), path)
    check_contents(path, net, program=True)
    with pytest.raises(ModelError, match="takes the place of its method 'forward'"):
        check_contents(path, net)
    net._modules["again"] = net
    with pytest.raises(ModelError, match="contains itself"):
        check_contents(path, net, program=True)
    with pytest.raises(ModelError, match="has a NoneType for _buffers"):
        check_contents(path, network(_buffers=None), program=True)


@pytest.mark.parametrize("part", [0, 1, 3, 4, 30, 0.3, 0.5, 0.9, -23, -22, -1])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "old_form"])
def test_truncated_files_are_damaged(tmp_path: Path, part: float, old: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    assert "is damaged" in refusal(path) or "is no file of torch.save" in refusal(path)


def test_the_old_form_with_classes_and_their_sources(tmp_path: Path) -> None:
    layers = [
        Allowed(kind, f"{kind.__module__}.{kind.__name__}", made=True) for kind in (nn.Sequential, nn.Linear, nn.ReLU)
    ]
    net = network()
    torch.save(net, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    found = read_pickled(tmp_path / "x.pth", layers)
    x = torch.randn(3, 2)
    assert torch.equal(found(x), net(x))
    assert f"GLOBAL {LINEAR}" in refusal(tmp_path / "x.pth", layers[0], layers[2])


def test_a_class_with_its_source_never_reads_that_source(scene: Scene) -> None:
    """Python would compare it with the class, by way of the file that is named there."""
    layer = named("torch.nn.modules.linear", "Identity")
    old_form(scene.file, script(b"(", text("module"), layer, text(str(scene.marker)), text("pass"), b"tQ"))
    assert read_pickled(scene.file, [Allowed(nn.Identity, "torch.nn.modules.linear.Identity")]) is nn.Identity


def test_ids_of_classes_cannot_be_moved(scene: Scene) -> None:
    """An id is rewritten into a call where it is used; made elsewhere, it would be a call of what stands below it."""
    ran: list[object] = []
    kept = (
        b"(" + text("module") + named("torch.nn.modules.linear", "Identity") + text("x.py") + text("pass") + b"tq\x09"
    )
    old_form(scene.file, script(b"](" + kept + named(OWN, "touch") + b"h\x09Qe"))
    allowed = (
        Allowed(nn.Identity, "torch.nn.modules.linear.Identity"),
        Allowed(lambda *args: ran.append(args), f"{OWN}.touch"),
    )
    assert "its pickle uses an id of a class again" in refusal(scene.file, *allowed)
    assert ran == []


def test_names_of_trusted_code_are_only_names_here(scene: Scene) -> None:
    archive(scene.file, script(named(OWN, "Net"), b")\x81"))
    assert globals_in(scene.file) == ((OWN, "Net"),)
    assert f"GLOBAL {OWN}.Net" in refusal(scene.file)
