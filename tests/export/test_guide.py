"""The guide's commands and code, run one after the other in one directory."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.cli.test_commands import prune, working_directory
from tests.cli.test_export import run_of

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "exporting.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_guide_does_what_it_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run_of(tmp_path / "prune-demo", {"kind": "demo"})
    for command in "".join(blocks("sh")).splitlines():
        done = prune(*shlex.split(command)[1:], cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        assert re.match(
            r"[\w./-]+: \d+\.\d\d MiB, max abs difference (0|\d\.\de-\d\d), batch sizes checked: ", done.stdout
        )
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {"demo.onnx", "demo.pth", *(f"prune-demo/model.{kind}" for kind in ("onnx", "pt2"))} <= made
    names: dict[str, object] = {}
    printed = io.StringIO()
    with working_directory(tmp_path), contextlib.redirect_stdout(printed):
        for code in blocks("python"):
            exec(compile(code, GUIDE.name, "exec"), names)
    scores = names["scores"]
    assert isinstance(scores, torch.Tensor)
    assert scores.shape == (4, 10)
    assert "(1, 2, 3) ()" in printed.getvalue()
