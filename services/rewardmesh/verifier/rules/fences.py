"""Fenced code in Markdown."""

from __future__ import annotations

import re

_OPEN = re.compile(r"[^\S\n]*(`{3,}|~{3,})[^\S\n]*([^\s`]*)[^\n]*(?:\n|$)")


def unfenced(text: str, language: str) -> str:
    """What is in the fence when the text is nothing but a fence, in `language` or none; else the text; without white space around it."""
    text = text.strip()
    match = _OPEN.match(text)
    if match is None or match.group(2).casefold() not in {"", language}:
        return text
    mark = match.group(1)
    return text[match.end() :].removesuffix(mark).strip() if text.endswith(mark) and len(text) > match.end() else text


def fences(text: str) -> list[tuple[str, int, int]]:
    """Every fenced block: its language in small letters ("" for none) and the code-point offsets [start, end) of what is in it.

    A fence that is never closed is no block.
    """
    found = []
    opened: tuple[str, str, int] | None = None
    at = 0
    for line in text.splitlines(keepends=True):
        match = _OPEN.match(line)
        if match and opened is None:
            opened = match.group(1), match.group(2).casefold(), at + len(line)
        elif match and opened and match.group(1).startswith(opened[0]) and not line.strip().strip(opened[0][0]):
            found.append((opened[1], opened[2], at))
            opened = None
        at += len(line)
    return found
