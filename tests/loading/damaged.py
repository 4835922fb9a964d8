"""Files that claim too much, are damaged, are of other kinds, or hold no network."""

from __future__ import annotations

import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tests.loading.making import Calls, Case, archive, inside, named, network, noted, old_form, rewritten, script, text

DAMAGED: dict[str, Case] = {}
case = noted(DAMAGED)

_TERA = 2**40
_NO_FILE = r"is no file of torch\.save \(neither a zip archive nor a pickle\)"


# ---------------------------------------------------------------- claims


@case(r"its tensors claim \d+ bytes, the file has \d+; it is not read")
def parameter_of_terabytes(path: Path, marker: Path) -> None:
    net = network()
    net[0].weight = nn.Parameter(torch.zeros(1).expand(_TERA))
    torch.save(net, path)


@case(r"its tensors claim \d+ bytes")
def buffer_of_terabytes(path: Path, marker: Path) -> None:
    net = network()
    net.register_buffer("table", torch.zeros(1, 1).expand(_TERA, 4))
    torch.save(net, path)


@case(r"its tensors claim \d+ bytes")
def attribute_of_terabytes(path: Path, marker: Path) -> None:
    inside(path, {"tables": [torch.zeros(1).expand(_TERA)]})


@case(r"its tensors claim \d+ bytes")
def network_of_terabytes_in_a_mapping(path: Path, marker: Path) -> None:
    net = network()
    net.register_buffer("table", torch.zeros(1).expand(_TERA))
    torch.save({"model": net}, path)


@case(r"its tensors claim \d+ bytes")
def many_small_views(path: Path, marker: Path) -> None:
    """Each is within bounds, all of them are not."""
    whole = torch.zeros(1024)
    inside(path, [whole.expand(64, 1024) for _ in range(1000)])


@case(r"an array of shape \(1099511627776,\) without content")
def array_of_terabytes(path: Path, marker: Path) -> None:
    inside(path, Calls(np.zeros(1).__reduce__()[0], np.ndarray, (_TERA,), b"b"))


@case(r"an array of shape \(8589934592,\) without content")
def array_of_gigabytes(path: Path, marker: Path) -> None:
    inside(path, Calls(np.zeros(1).__reduce__()[0], np.ndarray, (2**33,), b"b"))


@case(r"calls builtins\.list, which a file may hold but not call")
def list_of_a_long_range(path: Path, marker: Path) -> None:
    inside(path, Calls(list, Calls(range, 10**10)))


@case("a range of 10000000000 numbers")
def long_range(path: Path, marker: Path) -> None:
    inside(path, range(10**10))


@case(r"calls builtins\.set with an object that it made itself")
def set_of_a_long_range(path: Path, marker: Path) -> None:
    inside(path, Calls(set, Calls(range, 10**10)))


@case(r"calls torch\.Size with an object that it made itself")
def shape_of_a_long_tensor(path: Path, marker: Path) -> None:
    inside(path, Calls(torch.Size, torch.zeros(1).expand(2**33)))


@case(r"calls torch\.nn\.modules\.linear\.Linear, which a file may hold but not call")
def call_of_a_layer(path: Path, marker: Path) -> None:
    inside(path, Calls(nn.Linear, 100_000, 100_000))


@case(r"calls torch\.nn\.functional\.softsign, which a file may hold but not call")
def call_of_a_function(path: Path, marker: Path) -> None:
    inside(path, Calls(nn.functional.softsign, torch.zeros(1).expand(2**33)))


@case("holds a list that contains itself")
def list_that_contains_itself(path: Path, marker: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    torch.save(endless, path)


@case("holds a dict that contains itself")
def mapping_that_contains_itself(path: Path, marker: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = {"and": endless}
    torch.save(endless, path)


@case("holds a Sequential that contains itself")
def network_that_contains_itself(path: Path, marker: Path) -> None:
    net = network()
    net._modules["again"] = net
    torch.save(net, path)


@case("a Sequential in it is nested over 100 deep")
def network_of_endless_depth(path: Path, marker: Path) -> None:
    net = nn.Sequential(nn.ReLU())
    for _ in range(110):
        net = nn.Sequential(net)
    torch.save(net, path)


@case("a list in it is nested over 100 deep")
def list_of_endless_depth(path: Path, marker: Path) -> None:
    archive(path, script(b"]" * 5000 + b"a" * 4999))


@case("or unfolds to over 1000000 items")
def lists_that_double(path: Path, marker: Path) -> None:
    """Forty lists, each of the one before it twice: 2 ** 40 leaves to whoever counts them all."""
    doubled: list[Any] = []
    for _ in range(40):
        doubled = [doubled, doubled]
    inside(path, doubled)


@case("or unfolds to over 1000000 items")
def networks_that_double(path: Path, marker: Path) -> None:
    net: nn.Module = nn.ReLU()
    for _ in range(40):
        net = nn.Sequential(net, net)
    torch.save(net, path)


@case(r"record size \(8 bytes\) does not match expected size")
def storage_shorter_than_it_claims(path: Path, marker: Path) -> None:
    rewritten(path, lambda members: {n: (b[:-8] if "/data/" in n else b) for n, b in members.items()})


@case("failed locating file data/0")
def storage_that_is_gone(path: Path, marker: Path) -> None:
    rewritten(path, lambda members: {n: b for n, b in members.items() if not n.endswith("/data/0")})


@case(r"uses torch\._utils\._rebuild_nested_tensor, which no network needs")
def nested_tensor(path: Path, marker: Path) -> None:
    """Its sizes and strides are tensors, which torch takes as they are."""
    inside(path, Calls(torch._utils._rebuild_nested_tensor, torch.zeros(4), *[torch.zeros(1, 1)] * 2, torch.zeros(1)))


@case("is damaged")
def opcode_of_exabytes(path: Path, marker: Path) -> None:
    old_form(path, b"\x80\x02\x8d" + struct.pack("<Q", 2**61) + b".")


@case("is damaged")
def opcode_of_gigabytes(path: Path, marker: Path) -> None:
    archive(path, b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".")


@case("is damaged")
def text_of_gigabytes(path: Path, marker: Path) -> None:
    archive(path, b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b".")


@case(r"unfolds to \d+ bytes from \d+, which torch\.save never does")
def zip_bomb(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", script(b"N" * 5_000_000))


@case(r"unfolds to \d+ bytes from \d+, which torch\.save never does")
def zip_bomb_of_overlapping_entries(path: Path, marker: Path) -> None:
    """A thousand entries in the directory, one body."""
    body, name, many = script(b"N" * 100_000), b"archive/data.pkl", 1000
    crc = zlib.crc32(body)
    local = b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, crc, len(body), len(body), len(name), 0)
    entries = b""
    for number in range(many):
        own = name if number == 0 else f"archive/data/{number}".encode()
        sizes = struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, crc, len(body), len(body), len(own), 0, 0, 0, 0, 0, 0)
        entries += b"PK\1\2" + sizes + own
    end = struct.pack("<4H2IH", 0, 0, many, many, len(entries), len(local + name + body), 0)
    path.write_bytes(local + name + body + entries + b"PK\5\6" + end)


# ---------------------------------------------------------------- of other kinds


@case(_NO_FILE)
def empty(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


@case(_NO_FILE)
def text_file(path: Path, marker: Path) -> None:
    path.write_text("model: resnet50\nlr: 0.1\n")


@case(_NO_FILE)
def jpeg(path: Path, marker: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9")


@case(_NO_FILE)
def tar(path: Path, marker: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"))


@case(_NO_FILE)
def old_pickle(path: Path, marker: Path) -> None:
    """Of protocol 0, which needs no header."""
    path.write_bytes(pickle.dumps({"a": 1}, protocol=0))


@case("is damaged")
def plain_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))


@case("is a directory; give the file")
def directory(path: Path, marker: Path) -> None:
    path.mkdir()


@case("there is no such file")
def missing(path: Path, marker: Path) -> None:
    return None


@case("there is no such file")
def dangling_link(path: Path, marker: Path) -> None:
    path.symlink_to(path.with_name("gone.pth"))


@case("is damaged or no file of torch")
def safetensors_by_another_name(path: Path, marker: Path) -> None:
    save_file(network().state_dict(), path)


@case(r"one data\.pkl was expected")
def zip_of_something_else(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<xml/>")


@case(r"one data\.pkl was expected")
def object_too_deep(path: Path, marker: Path) -> None:
    archive(path, script(b"N"), name="archive/data/data.pkl")


@case("TorchScript, whose code cannot be changed; give the module that it was made from")
def torchscript(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("data.pkl", "code/__torch__/net.py", "constants.pkl"):
            file.writestr(f"net/{name}", script(b"N"))


@case("exported program; give the module that it was exported from")
def exported_program(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("archive_format", "models/model.json", "data/weights/model.pt"):
            file.writestr(f"net/{name}", "pt2")


# ---------------------------------------------------------------- damaged


@case("is damaged.*unsupported encryption")
def encrypted_member(path: Path, marker: Path) -> None:
    torch.save(network(), path)
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)


@case(r"is damaged.*opcode b'\\xff' unknown")
def unknown_opcodes(path: Path, marker: Path) -> None:
    archive(path, script(b"\xff\xfe\xfd"))


@case("is damaged.*TUPLE finds no mark")
def nothing_on_the_stack(path: Path, marker: Path) -> None:
    archive(path, script(b"tR"))


@case("is damaged.*REDUCE finds too little on the stack")
def nothing_above_the_mark(path: Path, marker: Path) -> None:
    archive(path, script(named("collections", "OrderedDict"), b")(R"))


@case("is damaged.*BINGET finds nothing under 5")
def memo_that_is_empty(path: Path, marker: Path) -> None:
    archive(path, script(b"h\x05"))


@case("is damaged")
def memo_of_nothing(path: Path, marker: Path) -> None:
    archive(path, script(b"q\x05"))


@case("is damaged")
def pickle_without_end(path: Path, marker: Path) -> None:
    archive(path, script(b"N")[:-1])


@case("is damaged")
def name_in_other_letters(path: Path, marker: Path) -> None:
    archive(path, script(named("сети", "Сеть"), b")\x81"))


@case("is damaged")
def byte_order_of_nobody(path: Path, marker: Path) -> None:
    rewritten(path, lambda members: {n: (b"middle" if n.endswith("byteorder") else b) for n, b in members.items()})


# ---------------------------------------------------------------- no network


@case("holds a int, expected a network saved by torch")
def number(path: Path, marker: Path) -> None:
    torch.save(7, path)


@case("holds a str, expected a network")
def string(path: Path, marker: Path) -> None:
    torch.save("resnet50", path)


@case("holds a NoneType, expected a network")
def nothing(path: Path, marker: Path) -> None:
    torch.save(None, path)


@case("holds a Tensor, expected a network")
def tensor(path: Path, marker: Path) -> None:
    torch.save(torch.zeros(3), path)


@case("holds a type, expected a network")
def class_of_a_network(path: Path, marker: Path) -> None:
    torch.save(nn.Linear, path)


@case("holds a list, expected a network")
def network_in_a_list(path: Path, marker: Path) -> None:
    torch.save([network()], path)


@case(r"holds weights without their network; give both: --model python:FILE\.py:CALLABLE --weights .*net\.pth")
def weights_alone(path: Path, marker: Path) -> None:
    torch.save(network().state_dict(), path)


@case(r"holds a mapping with state_dict, epoch, .* go with --model python:FILE\.py:CALLABLE --weights")
def weights_of_a_training_script(path: Path, marker: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, path)


@case("holds a mapping with nothing, expected a network")
def empty_mapping(path: Path, marker: Path) -> None:
    torch.save({}, path)


@case(r"holds a mapping with 'a\\nb\\x1b\[2J', 7, expected a network")
def mapping_of_odd_keys(path: Path, marker: Path) -> None:
    torch.save({"a\nb\x1b[2J": 1, 7: 2}, path)


@case(r"several networks \(student, teacher\); save the one to prune alone")
def several_networks(path: Path, marker: Path) -> None:
    torch.save(OrderedDict(student=network(), teacher=network()), path)


@case("is damaged: a Linear lacks training")
def layer_without_content(path: Path, marker: Path) -> None:
    archive(path, script(named("torch.nn.modules.linear", "Linear"), b")\x81"))


@case("is damaged: a Sequential has a list for _modules")
def layer_of_wrong_content(path: Path, marker: Path) -> None:
    torch.save(network(_modules=[1, 2]), path)


@case("is damaged: a Linear holds 'weight' of type int in _parameters")
def parameter_that_is_none(path: Path, marker: Path) -> None:
    net = network()
    net[0]._parameters["weight"] = 7  # type: ignore[assignment]
    torch.save(net, path)


@case("takes the place of its method 'eval'")
def method_that_is_none(path: Path, marker: Path) -> None:
    torch.save(network(eval=3), path)


@case("is damaged: a Linear has an attribute whose name is a int")
def attribute_without_a_name(path: Path, marker: Path) -> None:
    layer = named("torch.nn.modules.linear", "Linear")
    archive(path, script(layer, b")\x81}K\x07", text("seven"), b"sb"))
