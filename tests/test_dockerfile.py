"""The Dockerfile agrees with the repository. Its style, tags and user are hadolint's part (`tox -e lint`)."""

from __future__ import annotations

import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """`(word, rest)` of every instruction, in order."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def said(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def arguments() -> dict[str, str]:
    return dict(rest.split("=", 1) for rest in said("ARG"))


def ignored(path: str) -> bool:
    """As Docker reads `.dockerignore`: the last pattern that matches wins."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch(path, line.removeprefix("!").removeprefix("**/")):
            verdict = not line.startswith("!")
    return verdict


def test_both_stages_start_from_one_base_with_a_release_and_a_suite() -> None:
    bases = {rest.split()[0] for rest in said("FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", bases.pop())


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    sources = [s for rest in said("COPY") if "--from" not in rest for s in rest.split()[:-1]]
    assert {"pyproject.toml", "prunecore", "plugins"} <= {s.removeprefix("./") for s in sources}
    assert [s for s in sources if not (ROOT / s).exists() or ignored(s)] == []
    assert ignored("docs")
    assert ignored(".git")
    assert ignored("__pycache__")


def test_all_that_the_build_needs_of_the_repository_is_copied() -> None:
    sources = {s for rest in said("COPY") for s in rest.split()[:-1]}
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= sources


def test_extras_and_entry_point_are_those_of_the_project() -> None:
    assert set(arguments()["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    assert json.loads(said("ENTRYPOINT")[0])[0] in PROJECT["scripts"]
    assert any('pip install ".[$EXTRAS]"' in rest for rest in said("RUN"))


def test_torch_and_python_are_ones_that_the_project_takes() -> None:
    torch = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert arguments()["TORCH_VERSION"] in torch.specifier
    python = re.findall(r"python:(3\.\d+)", said("FROM")[0])[0]
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_nothing_runs_as_root_or_stays_in_a_cache() -> None:
    assert said("USER")[-1].split(":")[0] not in ("root", "0")
    assert "PIP_NO_CACHE_DIR=1" in " ".join(said("ENV"))


@pytest.mark.parametrize("name", sorted(arguments()))
def test_the_guide_has_every_build_argument_with_its_default(name: str) -> None:
    guide = (ROOT / "docs" / "guide" / "docker.md").read_text()
    assert f"| `{name}` | `{arguments()[name]}` |" in guide
