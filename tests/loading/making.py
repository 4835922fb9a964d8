"""What hostile and damaged files are made of: pickles written by hand, archives, and the place where they lie.

A builder takes the path of the file and a marker; whatever the file makes run leaves the marker behind.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

OWN = "hostile_own"  # a module beside the file, in the directory that is trusted
OWN_CODE = """
import os
from functools import partial
from importlib import import_module
from os import system
from pathlib import Path

from torch import nn

shell = partial(os.system)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)

class Toucher:
    def __init__(self, place):
        Path(place).touch()

def touch(place, *_):
    Path(place).touch()
    return place
"""
PACKAGE = "hostile_installed"  # a package that is installed, and trusted
PACKAGE_CODE = """
import os
from os import system
from pathlib import Path
from subprocess import Popen

from torch import nn

class Layer(nn.Module):
    pass

class Toucher:
    def __init__(self, place):
        Path(place).touch()

class Settable:
    def __setstate__(self, place):
        Path(place).touch()

def touch(place):
    Path(place).touch()
"""
UNTRUSTED = "hostile_elsewhere"  # importable, trusted by nobody; leaves the marker when it is imported

Builder = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Case:
    """says: what the refusal must say beside the file's name. runs: whether unpickling without limits leaves the marker."""

    build: Builder
    says: str
    runs: bool


def noted(cases: dict[str, Case]) -> Callable[..., Callable[[Builder], Builder]]:
    """A decorator that puts builders into `cases` by their names."""

    def case(says: str, *, runs: bool = False) -> Callable[[Builder], Builder]:
        def note(build: Builder) -> Builder:
            cases[build.__name__] = Case(build, says, runs)
            return build

        return note

    return case


@dataclass(frozen=True)
class Scene:
    """home: the directory of the file, with trusted code in it. site: where packages are installed."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def site(self) -> Path:
        return self.root / "site-packages"

    @property
    def marker(self) -> Path:
        return self.root / "marker"

    @property
    def file(self) -> Path:
        return self.home / "net.pth"

    def code(self, name: str, text: str) -> Path:
        """A module beside the file."""
        place = self.home / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def files(self) -> dict[str, bytes]:
        """Everything that is there."""
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(self.root.rglob("*"))}


def furnish(scene: Scene) -> Scene:
    """Trusted, installed and untrusted code in its places."""
    scene.home.mkdir()
    (scene.site / PACKAGE).mkdir(parents=True)
    scene.code(f"{OWN}.py", OWN_CODE)
    (scene.site / PACKAGE / "__init__.py").write_text(PACKAGE_CODE)
    untrusted = f"open({str(scene.marker)!r}, 'w').close()\nclass Net:\n    pass\n"
    (scene.site / f"{UNTRUSTED}.py").write_text(untrusted)
    return scene


# ---------------------------------------------------------------- by Python's own pickler


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> Any:
        return self.reduced


def network(**attributes: Any) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net.__dict__.update(attributes)
    return net


def inside(path: Path, payload: Any, **how: Any) -> None:
    """A good network with `payload` as an attribute."""
    torch.save(network(extra=payload), path, **how)


# ---------------------------------------------------------------- by hand


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def called(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def script(*operations: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(operations) + b"."


def archive(path: Path, program: bytes, *, name: str = "archive/data.pkl") -> None:
    """A zip as `torch.save` writes it, with any pickle inside."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, program)
        file.writestr("archive/version", b"3\n")


def old_form(path: Path, program: bytes, *, keys: bytes = script(b"]")) -> None:
    """The form before the zip: magic number, protocol, system, object, keys of the storages that follow."""
    head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in head) + program + keys)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """A good file with other members."""
    torch.save(network(), path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in change(members).items():
            file.writestr(name, content)
