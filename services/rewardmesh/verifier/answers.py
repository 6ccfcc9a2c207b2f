"""Finds the final answer that a completion states.

Markers, the last in the text first: `\\boxed{}`, `####`, `A:` at the start of a line, `Answer:`, `the answer is`. A marker with
nothing readable behind it is passed over for the one before. Without any marker, the last number of the text counts, or its last
formula when it is written in LaTeX.
All scans are linear in the length of the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rewardmesh.verifier.numbers import PlainNumber, numbers_in, plain, read_number

TAIL = 4096
"""Code points at the end of the text that are searched when there is no marker."""
LONGEST = 512
"""Code points of an answer behind a marker that are read."""
MOST_MARKERS = 8
"""Markers that are tried, from the end."""

_MARKER = re.compile(
    r"(?P<boxed>\\f?boxed[ ]?\{)|(?P<hashes>####)|^[ \t*]{0,8}(?P<a>A:)|\b(?i:(?P<answer>answer))[ \t*]{0,4}(?::|(?i:is)\b)[ \t*:]{0,8}",
    re.MULTILINE,
)
_FORMULA = re.compile(r"[\\$^<>≤≥±∞∪]|\d!|\d\s*[*/+×÷]|[*/+×÷]\s*\d|[)=]\s*$")
_EQUATION = re.compile(r"(?<![A-Za-z\\])[xyzabcnk](?![A-Za-z])\s*[-+*/^<>]|[-+*/^<>\d]\s*[xyzabcnk](?![A-Za-z])|[<>≤≥]|\\[lg]e")
"""What makes the left of "=" more than the name or the calculation of the right."""
_SEVERAL = re.compile(r"(?<![A-Za-z])[A-Za-z]\s*=[^=]*(?:[,;]|\b(?:and|or)\b)\s*[A-Za-z]\s*$")
"""The left of the last "=" of "x = 1, y = 2"."""

_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it stands in a text."""

    text: str
    start: int
    end: int
    """Code-point offsets [start, end)."""
    source: str
    """How it was found, for people: "after '####'"."""
    number: PlainNumber | None
    """Its exact value when it is a plain number; None when math-verify has to read it."""
    formula: bool = False
    """Whether the text stands in LaTeX's mathematics mode without saying so."""

    @property
    def marked(self) -> bool:
        """Whether the text says that this is the answer, by a marker."""
        return self.source.startswith(("after", "in"))


def find_answers(text: str, marker: str | None = None) -> Iterator[Answer]:
    """Candidates for the final answer, best first; the caller takes the first it can read.

    Args:
        text: the completion or reference.
        marker: when given, only what follows its last occurrence is an answer.
    """
    if marker is not None:
        at = text.rfind(marker)
        if at >= 0:
            yield from _line_answer(text, at + len(marker), f"after {marker!r}")
        return
    markers = list(_MARKER.finditer(text))[-MOST_MARKERS:]
    for match in reversed(markers):
        if match["boxed"]:
            end = _closing_brace(text, match.end())
            if end is not None:
                yield replace(_answer(text, match.end(), end, "in \\boxed{}"), formula=True)
        else:
            yield from _line_answer(text, match.end(), f"after {(match['hashes'] or match['a'] or match['answer'] + ' ...')!r}")
    if not markers:
        yield from _last_answer(text)


def whole_answer(text: str) -> Answer:
    """The whole of `text` as one answer: how a bare reference is read."""
    return _answer(text, 0, len(text), "the whole text")


def is_equation(text: str) -> bool:
    """Whether `text` relates several unknowns, and is no value: "3x + y = 2", but not "x = 2" or "3 * 2 = 6"."""
    left, equals, _ = text.rpartition("=")
    return bool(equals) and _EQUATION.search(left) is not None


def _answer(text: str, start: int, end: int, source: str) -> Answer:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    piece = text[start:end]
    number = read_number(piece)
    if number is None:
        # "3 * 6 = 18 eggs" states 18; "she makes $18." has only one number to mean.
        left, equals, right = plain(piece).rpartition("=")
        number = read_number(right) if equals and not _EQUATION.search(left) and not _SEVERAL.search(left) else None
        if number is None and not _FORMULA.search(plain(piece)):
            found = numbers_in(piece)
            number = found[0][2] if len(found) == 1 and not _DIGIT.search(piece[: found[0][0]] + piece[found[0][1] :]) else None
    return Answer(piece, start, end, source, number)


def _line_answer(text: str, start: int, source: str) -> Iterator[Answer]:
    """The rest of the line; the next line when that is empty."""
    while start < len(text) and text[start].isspace():
        start += 1
    end = text.find("\n", start)
    end = min(len(text) if end < 0 else end, start + LONGEST)
    if start < end:
        yield _answer(text, start, end, source)


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for index in range(start, min(len(text), start + 4 * LONGEST)):
        if text[index] == "{":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    return None


def _last_answer(text: str) -> Iterator[Answer]:
    offset = max(0, len(text) - TAIL)
    tail = text[offset:]
    line_start = tail.rstrip().rfind("\n") + 1
    found = numbers_in(tail)
    last_line = tail[line_start:]
    if found and not _FORMULA.search(last_line.replace("$", "") if last_line.count("$") % 2 else last_line):
        start, end, number = found[-1]
        yield Answer(tail[start:end].strip(), offset + start, offset + end, "the last number", number)
    elif tail.strip():
        yield Answer(tail, offset, len(text), "the last expression", None)
