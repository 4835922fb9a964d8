"""The rules of the house, checked on the source: who may import whom, what stays lazy, what the docs say."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import prunecore
from prunecore import hookspecs
from prunecore.config.reader import parse

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "prunecore").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins" / "prunecore_plugins").rglob("*.py"))
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_imports_no_plugin_and_no_model_library(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert roots & {"prunecore_plugins", "torchvision", "timm", "nni", "ofa", "ray"} == set()


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_import_only_public_names_and_never_each_other(path: Path) -> None:
    package = path.relative_to(ROOT / "plugins").parent.as_posix().replace("/", ".")
    names = list(imports_of(path))
    private = [n for n in names if n.startswith("prunecore.") and any(part.startswith("_") for part in n.split("."))]
    inner = [n for n in names if n.startswith(("prunecore.cli", "prunecore.registry"))]
    # a plugin that is a folder may import its own parts
    own = ".".join(package.split(".")[:3])
    foreign = [
        n for n in names if n.startswith("prunecore_plugins") and not (own.count(".") == 2 and n.startswith(own))
    ]
    assert private + inner + foreign == []


def test_help_and_configuration_do_not_import_torch() -> None:
    code = (
        "import sys, prunecore, prunecore.types, prunecore.errors, prunecore.hookspecs, prunecore.config.schema, "
        "prunecore.config.reader, prunecore.cli.main, prunecore.cli.run; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse(Path(prunecore.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == prunecore._HOMES
    assert all(getattr(prunecore, name) is not None for name in prunecore.__all__)


def hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("prune_")]


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_has_a_heading_with_its_exact_signature(hook: str) -> None:
    text = (ROOT / "docs" / "guide" / "writing-plugins.md").read_text()
    assert re.search(rf"^#+ .*{hook}", text, re.MULTILINE)
    signature = f"def {hook}{inspect.signature(getattr(hookspecs, hook))}".replace("'", "")
    assert re.sub(r"\s+", "", signature) in re.sub(r"\s+", "", text).replace(",)->", ")->")


def test_the_command_line_page_is_made_of_the_commands() -> None:
    from prunecore.cli.reference import page

    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == page()


def yaml_blocks() -> list[tuple[str, str]]:
    found = []
    for path in [ROOT / "README.md", *DOCS]:
        blocks = re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        found += [(f"{path.name}-{i}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("block", [b for _, b in yaml_blocks()], ids=[n for n, _ in yaml_blocks()])
def test_every_yaml_example_is_valid(block: str) -> None:
    parse({"model": "demo", "data": "digits", "algorithm": "fpgm", **yaml.safe_load(block)})


def test_the_template_of_init_is_valid() -> None:
    from prunecore.cli.init import TEMPLATE

    settings = yaml.safe_load(TEMPLATE.format(name="Pruning.yaml"))
    assert parse(settings).config.target.reduce == 0.5


def test_docs_and_code_name_no_machine() -> None:
    here = [p for p in (*CORE, *PLUGINS, *DOCS, ROOT / "README.md") if re.search(r"/work/|/root/", p.read_text())]
    assert here == []
