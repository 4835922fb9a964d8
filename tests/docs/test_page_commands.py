"""The commands of the page on networks of libraries run, and print what the page says, where it is marked as tested."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunecore.cli.main import main
from tests.docs.pages import ROOT, Block, blocks

PAGE = "library-models.md"
FILES = ROOT / "docs" / "examples" / "library-models"


def marked() -> Iterator[object]:
    """Every marked block, with the `text` block behind it (what is expected of its output)."""
    found = blocks(PAGE)
    for block, behind in zip(found, [*found[1:], None], strict=True):
        if block.mark in ("tested", "tested slow"):
            expected = behind.text if behind is not None and behind.language == "text" else ""
            marks = [pytest.mark.slow] if block.mark == "tested slow" else []
            yield pytest.param(block, expected, id=f"line {block.line}", marks=marks)


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def missing(expected: str, output: str) -> list[str]:
    """The lines of `expected` that the output does not have, in that order; `…` stands for anything."""
    lines = iter(line.strip() for line in output.splitlines())
    return [
        wanted
        for wanted in expected.splitlines()
        if not any(re.fullmatch(re.escape(wanted.strip()).replace("…", ".*"), line) for line in lines)
    ]


def carried_out(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command prints; `prune` runs in this process (an import of torch costs seconds)."""
    if command[0] == "python":
        done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    monkeypatch.setattr(sys, "argv", command)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0, out.getvalue()
    return out.getvalue()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the page speaks of; the weights of torchvision lie in its cache, so that nothing is fetched."""
    import torchvision

    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    write_photos(tmp_path / "photos")
    write_streets(tmp_path / "streets")
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small()
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / "mobilenet_v3_small-047dcff4.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.save(network, tmp_path / "whole.pth")
    torch.save(torchvision.models.mobilenet_v3_small(num_classes=2).state_dict(), tmp_path / "trained.pth")
    return tmp_path


def write_photos(directory: Path) -> None:
    """Two classes of sixteen pictures: dark and light."""
    generator = np.random.default_rng(0)
    for name, base in (("cats", 60), ("dogs", 190)):
        (directory / name).mkdir(parents=True)
        for number in range(16):
            pixels = np.clip(generator.normal(base, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(directory / name / f"{number}.png")


def write_streets(directory: Path) -> None:
    """Twelve pictures whose colours are the classes of their masks."""
    generator = np.random.default_rng(0)
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    directory.mkdir()
    rows = ["path,label,is_val"]
    for number in range(12):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, generator.integers(10, 50) :] = 1
        mask[generator.integers(40, 60) :] = 2
        Image.fromarray(colours[mask]).save(directory / f"{number}.png")
        Image.fromarray(mask).save(directory / f"{number}_mask.png")
        rows.append(f"{number}.png,{number}_mask.png,{number % 4 == 0}")
    (directory / "data.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("block", "expected"), list(marked()))
@pytest.mark.usefixtures("place")
def test_commands_run_and_print_what_the_page_shows(
    block: Block, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [carried_out(command, monkeypatch) for command in commands(block)]
    assert missing(expected, "".join(outputs)) == [], "".join(outputs)
    for command, output in zip(commands(block), outputs, strict=True):
        proof = {"run": "certificate: verified", "verify": "certificate: verified", "doctor": "can go"}
        assert proof.get(command[1], "") in output


def test_only_lines_that_are_not_there_are_missed() -> None:
    assert missing("a … c\nd", "a b c\n  d  \n") == []
    assert missing("d\na", "a\nd\n") == ["a"]
