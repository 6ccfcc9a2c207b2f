"""The fenced blocks of the README and of the pages in docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"# ((?:services|trainer|tests)/\S+)\n")


@dataclass(frozen=True)
class Block:
    """One block with its language and the line it begins on."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The file that its first line says it is."""
        found = _PATH.match(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(language: str, pages: tuple[Path, ...] = PAGES) -> list[Block]:
    """All blocks of a language, in order."""
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match["language"] == language:
                found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, match["text"]))
    return found
