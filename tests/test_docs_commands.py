"""Commands of the guides that need neither data nor training do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from prunecore.cli.main import cli

ROOT = Path(__file__).parents[1]


def cheap(page: str) -> list[str]:
    """The `doctor` and `verify` commands of the page's shell blocks."""
    text = (ROOT / "docs" / "guide" / page).read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line for line in lines if line.startswith(("prune doctor", "prune verify"))]


@pytest.mark.slow
@pytest.mark.parametrize("command", cheap("library-models.md"))
def test_commands_of_the_guide_to_library_models(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(cli, shlex.split(command, comments=True)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "can go" in done.output or "certificate: verified" in done.output
