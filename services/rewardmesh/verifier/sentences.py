"""Splits text into sentences by rules, in time linear in the text.

A sentence ends at . ! ? … (or their wide forms) before white space, at an empty line, before a list item, and after a heading. A full stop
does not end one after a common abbreviation, an initial or the number of a list item, or before a small letter. The rules know English
abbreviations; other languages split well but for theirs.
"""

from __future__ import annotations

import re

_END = re.compile(r"(?P<blank>\n[^\S\n]*\n)|(?P<line>\n)|(?P<wide>[。！？]+)|(?P<stop>[.!?…]+)")
_CLOSING = frozenset("\"'”’»)]*_`」』")
_ITEM = re.compile(r"[^\S\n]*(?:[-*+•#>|]|\d{1,3}[.)])[^\S\n]")
_ENGLISH = (
    "mr mrs ms dr prof rev gen sen rep hon st sr jr vs e.g i.e cf viz approx dept est inc ltd co corp fig figs eq no nos vol pp p ch sec "
    "ed eds al jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun a.m p.m u.s u.k"
)
_ABBREVIATIONS = frozenset(_ENGLISH.split())
_LONGEST_ABBREVIATION = 8
_WORD = re.compile(r"\w")


def sentences(text: str) -> list[tuple[int, int]]:
    """Code-point offsets [start, end) of each sentence, without the white space around it. What holds no word character is none."""
    found: list[tuple[int, int]] = []
    start = line_start = 0
    for match in _END.finditer(text):
        at, end = match.span()
        kind = match.lastgroup
        if kind == "blank":
            cut = at
        elif kind == "line":
            heading = text.startswith("#", line_start)
            line_start = end
            if not heading and not _ITEM.match(text, end):
                continue
            cut = at
        else:
            while end < len(text) and text[end] in _CLOSING:
                end += 1
            if kind == "stop" and not _ends(text, start, at, match.end(), end):
                continue
            cut = end
        if kind == "blank":
            line_start = end
        _add(found, text, start, cut)
        start = max(start, cut)
    _add(found, text, start, len(text))
    return found


def _ends(text: str, start: int, at: int, stop: int, end: int) -> bool:
    """Whether the sentence that began at `start` ends with the marks [at, stop), closed at `end`."""
    if end < len(text) and not text[end].isspace():
        return False
    if text[at:stop] != ".":
        return True
    before = text[max(start, at - _LONGEST_ABBREVIATION - 1) : at]
    word = before.split()[-1] if before and not before[-1].isspace() else ""
    word = word.lstrip("([\"'“‘*_")
    if word.casefold() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I"):
        return False
    if word.isdigit() and at - start <= _LONGEST_ABBREVIATION and text[start:at].strip() == word:
        return False
    following = _next(text, end)
    return not following.islower()


def _next(text: str, at: int) -> str:
    """The first character from `at` on that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return text[at : at + 1]


def _add(found: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end and _WORD.search(text, start, end):
        found.append((start, end))
