"""Finds the words that a critique quotes in the text it is about.

As they stand; else with case, white space, typographic quotes and compatibility characters levelled; else the most similar stretch, when
it is similar enough. A model quotes a little wrong, and a point that is put on the wrong words teaches the wrong thing: below the
threshold a quote has no place. Spans of different quotes may overlap; an occurrence is given out once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher

from rewardmesh.judge.rendering import Marking

THRESHOLD = 0.8
"""Least similarity (ratio of Ratcliff and Obershelp) of a close match."""
LONGEST_CLOSE = 20_000
"""Code points of a text beyond which close matches are not looked for: it would take seconds."""
_SHORTEST_CLOSE, _LONGEST_CLOSE_QUOTE = 8, 400
_LEVELLED = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "–": "-", "—": "-"})

Place = tuple[int, int]
"""Code points [start, end)."""


class Quotes:
    """The places of quotes in one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._given: set[Place] = set()
        self._level, self._origin = _levelled(text)

    def place(self, quote: str) -> Place | None:
        """Where a quote stands: the first occurrence not yet given out, or None."""
        for candidates in (self._exact(quote), self._alike(quote), self._close(quote)):
            for start, end in candidates:
                if start < end and (start, end) not in self._given:
                    self._given.add((start, end))
                    return start, end
        return None

    def _exact(self, quote: str) -> Iterator[Place]:
        if quote.strip():
            yield from ((start, start + len(quote)) for start in _occurrences(self._text, quote))

    def _alike(self, quote: str) -> Iterator[Place]:
        wanted = _levelled(quote)[0].strip()
        for shorter in dict.fromkeys((wanted, wanted.strip(" \"'.…"))):
            if shorter:
                yield from (self._back(start, start + len(shorter)) for start in _occurrences(self._level, shorter))

    def _close(self, quote: str) -> Iterator[Place]:
        wanted = _levelled(quote)[0].strip()
        if not _SHORTEST_CLOSE <= len(wanted) <= _LONGEST_CLOSE_QUOTE or len(self._level) > LONGEST_CLOSE:
            return
        anchor = SequenceMatcher(None, self._level, wanted, autojunk=False).find_longest_match()
        begin = anchor.a - anchor.b
        best: tuple[float, int, int] = (THRESHOLD, 0, 0)
        for margin in (0, len(wanted) // 8, len(wanted) // 4):  # words that the quote leaves out make the stretch longer
            start = max(begin - margin, 0)
            window = self._level[start : max(begin + len(wanted) + margin, 0)]
            blocks = [block for block in SequenceMatcher(None, window, wanted, autojunk=False).get_matching_blocks() if block.size]
            if blocks:
                stretch = window[blocks[0].a : blocks[-1].a + blocks[-1].size]
                ratio = SequenceMatcher(None, stretch, wanted, autojunk=False).ratio()
                best = max(best, (ratio, start + blocks[0].a, start + blocks[0].a + len(stretch)))
        if best[1] < best[2]:
            yield self._back(best[1], best[2])

    def _back(self, start: int, end: int) -> Place:
        """A stretch of the levelled text in the text itself."""
        return self._origin[start], self._origin[end - 1] + 1


def unmarked(quote: str, marking: Marking) -> str:
    """A quote without the marks that the template put on the text it is from."""
    if marking == "lines":
        return re.sub(r"^\| ?", "", quote, flags=re.MULTILINE)
    if marking == "words":
        return "\n".join(line.removeprefix("^").replace("^", " ") for line in quote.split("\n"))
    return quote


def without_marks(text: str, marking: Marking) -> str:
    """A text that was written anew, without marks if it has them throughout: a table or a power is none."""
    lines = text.splitlines()
    throughout = all(line.startswith("| ") for line in lines if line) if marking == "lines" else " " not in text and "^" in text
    return unmarked(text, marking) if throughout and marking != "none" else text


def _levelled(text: str) -> tuple[str, list[int]]:
    """The text with differences levelled that a quote may get wrong, and for each of its code points that of the text it is from."""
    level: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        plain = unicodedata.normalize("NFKC", character.translate(_LEVELLED)).casefold()
        if plain.isspace():
            if level and level[-1] == " ":
                continue
            plain = " "
        level += plain
        origin += [index] * len(plain)
    return "".join(level), origin


def _occurrences(text: str, part: str) -> Iterator[int]:
    start = text.find(part)
    while start >= 0:
        yield start
        start = text.find(part, start + 1)
