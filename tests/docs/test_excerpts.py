"""What the pages show of files in the repository is what stands there."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, Block, blocks

EXAMPLES = ROOT / "docs" / "examples"


def source_of(distribution: str) -> str:
    files = [*sorted((EXAMPLES / distribution).rglob("*.py")), EXAMPLES / distribution / "pyproject.toml"]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def without_docstring(text: str) -> str:
    """A page may leave the class's own docstring out in front of its options."""
    return text.replace(
        '    """Reads `net.json` and `net.safetensors`; a run writes the pruned network as such a pair."""\n\n', ""
    )


@pytest.mark.parametrize(
    "block",
    [b for b in blocks("writing-loaders.md") if b.language in ("python", "toml")],
    ids=lambda b: f"line {b.line}",
)
def test_excerpts_of_the_loader_are_those_of_the_distribution(block: Block) -> None:
    assert block.text in without_docstring(source_of("prunecore-layers"))


@pytest.mark.parametrize(
    "block", [b for b in blocks("library-models.md") if b.title is not None], ids=lambda b: f"{b.title} line {b.line}"
)
def test_files_that_the_page_on_libraries_shows_are_the_examples(block: Block) -> None:
    assert block.text == (EXAMPLES / "library-models" / str(block.title)).read_text(encoding="utf-8")
