"""markdown:* - how many tables, headings, list items and code blocks a text has, fenced code left out. Not of IFEval."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from rewardmesh.verifier.rules.constraint import Counted, Finding, Text
from rewardmesh.verifier.rules.fences import fences

_HEADING = re.compile(r"^ {0,3}(#{1,6})[^\S\n]+\S", re.MULTILINE)
_BULLET = re.compile(r"^[^\S\n]*[-*+][^\S\n]+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*\d{1,9}[.)][^\S\n]+\S", re.MULTILINE)
_CELLS = re.compile(r"(?<!\\)\|")
_RULE_CELL = re.compile(r"[^\S\n]*:?-+:?[^\S\n]*")


class Tables(Counted):
    """So many tables: a row of cells, a row of dashes with as many, and the rows below."""

    id: Literal["markdown:tables"] = "markdown:tables"
    rows: int = Field(0, ge=0, description="Least rows of a table, without its head, for it to count.")
    columns: int = Field(1, ge=1, description="Least columns of a table for it to count.")

    def check(self, text: Text) -> Finding:
        """Counts tables of at least that size."""
        lines = _prose(text.whole).splitlines()
        count, index = 0, 1
        while index < len(lines):
            head, rule = _cells(lines[index - 1]), _cells(lines[index])
            if "|" in lines[index] and head and len(head) == len(rule) and all(_RULE_CELL.fullmatch(cell) for cell in rule):
                first = index = index + 1
                while index < len(lines) and "|" in lines[index]:
                    index += 1
                count += len(head) >= self.columns and index - first >= self.rows
            index += 1
        return self.judge(count, f"tables of at least {self.rows} rows and {self.columns} columns")


class Headings(Counted):
    """So many headings ("# Title")."""

    id: Literal["markdown:headings"] = "markdown:headings"
    level: int | None = Field(None, ge=1, le=6, description="Only headings of this level; unset for all.")

    def check(self, text: Text) -> Finding:
        """Counts headings."""
        levels = [len(match.group(1)) for match in _HEADING.finditer(_prose(text.whole))]
        count = len(levels) if self.level is None else levels.count(self.level)
        return self.judge(count, "headings" if self.level is None else f"headings of level {self.level}")


class ListItems(Counted):
    """So many list items."""

    id: Literal["markdown:list_items"] = "markdown:list_items"
    kind: Literal["bulleted", "numbered", "any"] = "any"

    def check(self, text: Text) -> Finding:
        """Counts items of all lists, nested ones too."""
        prose = _prose(text.whole)
        count = 0
        if self.kind != "numbered":
            count += sum(1 for _ in _BULLET.finditer(prose))
        if self.kind != "bulleted":
            count += sum(1 for _ in _NUMBERED.finditer(prose))
        return self.judge(count, f"list items ({self.kind})")


class CodeBlocks(Counted):
    """So many fenced code blocks."""

    id: Literal["markdown:code_blocks"] = "markdown:code_blocks"
    language: str | None = Field(None, min_length=1, max_length=40, description="Only blocks marked so; unset for all.")

    def check(self, text: Text) -> Finding:
        """Counts blocks that are closed."""
        languages = [language for language, _, _ in fences(text.whole)]
        count = len(languages) if self.language is None else languages.count(self.language.casefold())
        return self.judge(count, "code blocks" if self.language is None else f"code blocks in {self.language}")


def _prose(text: str) -> str:
    """`text` without what stands in fenced code."""
    parts, at = [], 0
    for _, start, end in fences(text):
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]])


def _cells(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    return _CELLS.split(line[:-1] if line.endswith("|") and not line.endswith("\\|") else line) if line else []
