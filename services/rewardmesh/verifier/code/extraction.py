"""Finds the program in a completion: the last fenced block of its language, else the last without one, else the whole text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """A program as it stands in a completion."""

    text: str
    start: int
    """Code-point offset of `text` in the completion."""

    def line_span(self, line: int) -> tuple[int, int] | None:
        """Code points [start, end) in the completion of a line of the program, from 1, without its indent; None when there is none."""
        lines = self.text.split("\n")
        if not 1 <= line <= len(lines):
            return None
        text = lines[line - 1]
        start = self.start + sum(len(one) + 1 for one in lines[: line - 1]) + len(text) - len(text.lstrip())
        return start, max(start, start + len(text.strip()))


def find_code(completion: str, fences: tuple[str, ...]) -> Code:
    """The program in a completion; `fences` are the words after ``` that name its language. Linear in the text."""
    found = plain = None
    for word, code in _blocks(completion):
        if word in fences:
            found = code
        elif not word:
            plain = code
    return found or plain or Code(completion, 0)


def _blocks(completion: str) -> Iterator[tuple[str, Code]]:
    """(first word behind the fence, in lower case; content) of each fenced block; one that is never closed goes to the end."""
    fence, word, start = "", "", 0
    position = 0
    for line in completion.split("\n"):
        end = position + len(line) + 1
        stripped = line.strip()
        marks = len(stripped) - len(stripped.lstrip("`"))
        if fence:
            if marks >= len(fence) and not stripped.strip("`"):
                yield word, Code(completion[start : max(start, position - 1)], start)
                fence = ""
        elif marks >= 3 and "`" not in stripped[marks:]:
            fence, start = "`" * marks, min(end, len(completion))
            words = stripped[marks:].replace("{", " ").replace(":", " ").split()
            word = words[0].lower() if words else ""
        position = end
    if fence:
        yield word, Code(completion[start:], start)
