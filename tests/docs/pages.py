"""Code blocks of the documentation, so that tests can run what the pages show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "guide"

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[a-z ]+) -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """mark: what an HTML comment in front of it says. title: the file that it shows."""

    language: str
    text: str
    mark: str | None = None
    title: str | None = None
    line: int = 0


def blocks(page: str) -> list[Block]:
    """The code blocks of a page of the guide, in order."""
    text = (GUIDE / page).read_text(encoding="utf-8")
    return [
        Block(m["language"], m["text"], m["mark"], m["title"], text.count("\n", 0, m.start()) + 1)
        for m in _BLOCK.finditer(text)
    ]
