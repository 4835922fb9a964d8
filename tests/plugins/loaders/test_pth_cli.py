"""The flags that trust code, as a user meets them: what is refused says what to type, and that works."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

import prunecore
from prunecore.cli.main import main
from tests.loading.making import Scene, archive, called, named, script, text

NETS = """
from torch import nn
import torch.nn.functional as F
from hostile_layers import Block

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.act = nn.Conv2d(1, 16, 3, 2, 1), Block(16), F.relu
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.block(self.act(self.stem(x))).mean((2, 3)))
"""
LAYERS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, 32, 3, padding=1), nn.Conv2d(32, width, 3, padding=1)

    def forward(self, x):
        return self.two(self.one(x).relu()).relu()
"""
SIZE = ("--set", "inputs=[1,1,16,16]")


@pytest.fixture
def own(scene: Scene) -> Scene:
    """A whole network beside its code, and the command line in that directory."""
    scene.code("hostile_layers.py", LAYERS)
    scene.code("hostile_net.py", NETS)
    sys.path.insert(0, str(scene.home))
    import hostile_net

    torch.save(hostile_net.Net(), scene.file)
    sys.path.remove(str(scene.home))
    forget()
    return scene


def forget() -> None:
    for name in ("hostile_net", "hostile_layers"):
        sys.modules.pop(name, None)


def prune(*args: str, monkeypatch: pytest.MonkeyPatch, cwd: Path) -> tuple[int, str, str]:
    """Exit code, what is printed, what is told."""
    out, err = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["prune", *args])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_the_flag_that_is_told_is_the_flag_that_helps(own: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.path)
    code, out, err = prune("doctor", "pth:net.pth", *SIZE, monkeypatch=monkeypatch, cwd=own.home)
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "not trusted: hostile_net.Net, hostile_layers.Block; it lies beside the file" in err
    told = re.search(r"if you trust it: (--trust-code \S+)$", err.strip())
    assert told is not None
    code, out, err = prune(
        "doctor", "pth:net.pth", *SIZE, *shlex.split(told[1]), "--json", monkeypatch=monkeypatch, cwd=own.home
    )
    assert (code, err) == (0, "")
    assert {g["group"]: g["channels"] for g in json.loads(out)["groups"]} == {
        "stem": 16,
        "block.one": 32,
        "block.two": 16,
        "head": 10,
    }
    assert sys.path == before


@pytest.mark.parametrize(
    "flags", ["--trust-code .", "--set trust_code=true", "--trust-code ../site-packages --trust-code ."]
)
def test_ways_to_trust_a_directory(own: Scene, monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    code, out, _ = prune("doctor", "pth:net.pth", *SIZE, *flags.split(), monkeypatch=monkeypatch, cwd=own.home)
    assert code == 0
    assert "block.one" in out


def test_packages_are_trusted_by_name(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.ops import MLP

    torch.save(MLP(8, [16, 4]), scene.file)
    command = ("doctor", "pth:net.pth", "--set", "inputs=[1,8]")
    code, _, err = prune(*command, monkeypatch=monkeypatch, cwd=scene.home)
    assert code == 1
    assert err.strip().endswith("if you trust the package: --trust-package torchvision")
    code, _, err = prune(*command, "--trust-package", "timm", monkeypatch=monkeypatch, cwd=scene.home)
    assert (code, "--trust-package torchvision" in err) == (1, True)
    packages = ("--trust-package", "timm", "--trust-package", "torchvision")
    code, out, _ = prune(*command, *packages, monkeypatch=monkeypatch, cwd=scene.home)
    assert code == 0
    assert re.search(r"^0 +16 ", out, re.MULTILINE)


def test_allow_pickle_is_loud(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(scene.file, script(called(named("posix", "system"), text(f"touch {scene.marker}"))))
    code, _, err = prune("doctor", "pth:net.pth", "--trust-code", ".", monkeypatch=monkeypatch, cwd=scene.home)
    assert code == 1
    assert "posix.system; it belongs to Python itself" in err
    assert "--allow-pickle, which takes the whole file as a program" in err
    assert not scene.marker.exists()
    code, _, err = prune("doctor", "pth:net.pth", "--allow-pickle", monkeypatch=monkeypatch, cwd=scene.home)
    assert code == 1
    first, second = err.splitlines()
    assert first == "warning: --allow-pickle: whatever code the model's file holds is executed"
    assert "holds a int, expected a network" in second
    assert scene.marker.exists()


@pytest.mark.parametrize("place", ["gone", "net.pth"])
def test_a_directory_that_is_none_is_a_usage_error(own: Scene, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    for command in (("doctor", "pth:net.pth"), ("run", "--model", "pth:net.pth", "--data", "digits")):
        code, _, err = prune(*command, "--trust-code", place, monkeypatch=monkeypatch, cwd=own.home)
        assert code == 2
        assert f"'{place}'" in err


def test_loaders_that_read_no_code_know_no_such_flags(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = prune("doctor", "demo", "--trust-package", "timm", monkeypatch=monkeypatch, cwd=scene.home)
    assert code == 2
    assert "trust_package: unknown key" in err


def test_a_run_refuses_before_anything_is_written(own: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own.files()
    flags = ("--data", "digits", "--set", "model.inputs=[1,1,16,16]", "--out", "out")
    code, _, err = prune("run", "--model", "pth:net.pth", *flags, monkeypatch=monkeypatch, cwd=own.home)
    assert code == 1
    assert f"--trust-code {own.home}" in err
    assert own.files() == before


@pytest.mark.slow
def test_a_run_of_a_whole_file_from_start_to_a_second_run(own: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trust stands in the run's own configuration, by absolute paths; the result is again a file of that kind."""
    quick = {"training": {"epochs": 1}, "control": "none", "algorithm": "l2norm", "data": "digits"}
    model = {"spec": "pth:net.pth", "inputs": [1, 1, 16, 16], "beside": True}
    (own.home / "Pruning.yaml").write_text(yaml.safe_dump({**quick, "model": model}))
    command = ("run", "--trust-code", ".", "-P", "0.4", "--out", "out")
    code, out, err = prune(*command, monkeypatch=monkeypatch, cwd=own.home)
    assert code == 0, err
    assert "certificate: verified" in out
    section = yaml.safe_load((own.home / "out" / "config.yaml").read_text())["model"]
    assert section["trust_code"] == [str(own.home)]
    assert section["source"] == str(own.file)
    forget()
    pruned = prunecore.load(own.home / "out")  # from another directory
    widths = pruned.block.one.out_channels
    assert widths < 32
    assert (own.home / "out" / "rezalt.pth").read_bytes() == (own.home / "rezalt.pth").read_bytes()
    forget()
    again = ("run", "--model", "pth:rezalt.pth", "--trust-code", ".", "-P", "0.3", "--out", "second")
    code, _, err = prune(*again, "--set", "model.inputs=[1,1,16,16]", monkeypatch=monkeypatch, cwd=own.home)
    assert code == 0, err
    first, second = (json.loads((own.home / d / "result.json").read_text()) for d in ("out", "second"))
    assert second["macs"]["before"] == first["macs"]["after"]
    assert prune("verify", "second", monkeypatch=monkeypatch, cwd=own.home)[0] == 0
