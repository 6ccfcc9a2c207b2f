"""format:sections and format:tags - a text made of named parts in a fixed order. Not of IFEval."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text

_Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.-]*$", max_length=100)]
_HEADING = re.compile(r"^#{1,6}[^\S\n]+", re.MULTILINE)


class Sections(Constraint):
    """Sections with these titles, in this order, each with something in it.

    A title is a line "# Title", "**Title**" or "Title:", which may go on after the colon.
    """

    id: Literal["format:sections"] = "format:sections"
    titles: tuple[_Title, ...] = Field(min_length=1, max_length=64)
    only: bool = Field(True, description="Whether the first section begins the text, and no other Markdown heading may occur.")

    def check(self, text: Text) -> Finding:
        """Case of letters does not count."""
        whole = text.whole
        bounds: list[tuple[int, int]] = []
        for title in self.titles:
            match = _titled(title).search(whole, bounds[-1][1] if bounds else 0)
            if match is None:
                return Finding(False, f"section {title!r} is missing or out of order")
            bounds.append((match.start(), match.end()))
        ends = [start for start, _ in bounds[1:]] + [len(whole)]
        for title, (start, begin), end in zip(self.titles, bounds, ends, strict=True):
            if not whole[begin:end].strip():
                return Finding(False, f"section {title!r} is empty", (start, begin))
        if self.only:
            if whole[: bounds[0][0]].strip():
                return Finding(False, f"text before section {self.titles[0]!r}", (0, bounds[0][0]))
            starts = {start for start, _ in bounds}
            other = next((match for match in _HEADING.finditer(whole) if match.start() not in starts), None)
            if other is not None:
                return Finding(False, f"another heading at {other.start()}", other.span())
        return Finding(True, f"all {len(self.titles)} sections in order")


class Tags(Constraint):
    """Parts in tags, each once and in this order: `<think>…</think><answer>…</answer>`."""

    id: Literal["format:tags"] = "format:tags"
    tags: tuple[_Tag, ...] = Field(min_length=1, max_length=16)
    only: bool = Field(True, description="Whether nothing but white space may stand outside of them.")

    def check(self, text: Text) -> Finding:
        """Tags have no attributes; blank parts are a mistake."""
        whole = text.whole
        at = 0
        for tag in self.tags:
            opened, closed = f"<{tag}>", f"</{tag}>"
            if whole.count(opened) != 1 or whole.count(closed) != 1:
                return Finding(
                    False, f"{opened} occurs {whole.count(opened)} times and {closed} {whole.count(closed)} times; once each wanted"
                )
            start, end = whole.index(opened), whole.index(closed)
            if start < at or end < start:
                return Finding(False, f"{opened} is out of order", (start, start + len(opened)))
            if self.only and whole[at:start].strip():
                return Finding(False, f"text outside of the tags, before {opened}", (at, start))
            if not whole[start + len(opened) : end].strip():
                return Finding(False, f"{opened} is empty", (start, end))
            at = end + len(closed)
        if self.only and whole[at:].strip():
            return Finding(False, f"text outside of the tags, after </{self.tags[-1]}>", (at, len(whole)))
        return Finding(True, f"{', '.join(self.tags)} in order")


@lru_cache(maxsize=512)
def _titled(title: str) -> re.Pattern[str]:
    name = re.escape(title)
    forms = rf"#{{1,6}}[^\S\n]+(?:\*\*)?{name}(?:\*\*)?:?[^\S\n]*$|\*\*{name}:?\*\*:?|{name}:"
    return re.compile(rf"^(?:{forms})", re.MULTILINE | re.IGNORECASE)
