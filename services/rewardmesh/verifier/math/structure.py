"""Answers of several parts, taken apart by their brackets: sets, tuples, intervals, unions, matrices, lists.

What the parts are is not looked at; each is compared by itself. This is exact where a computer-algebra system guesses ([0, 1) is not
(0, 1)), and linear in the text.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from rewardmesh.verifier.math.expressions import looks_like_prose

MOST_PARTS = 64
"""Parts beyond which text is not taken apart: unordered ones are compared each with each."""
MOST_CHARACTERS = 2048


class Kind(StrEnum):
    """How the parts belong together."""

    SET = "set"
    """{1, 2}, or the two of 1 ± 2: in no order."""
    LIST = "list"
    """1, 2: an order counts when the options say so."""
    TUPLE = "tuple"
    """(1, 2), [1, 2, 3], a row or a column: in order. Of two parts it may be an interval: then the brackets count."""
    UNION = "union"
    """Intervals and sets joined by \\cup: in no order."""
    MATRIX = "matrix"
    """Rows of cells, by `columns`."""


@dataclass(frozen=True, slots=True)
class Structure:
    """An answer of several parts."""

    kind: Kind
    parts: tuple["str | Structure", ...]
    brackets: str = ""
    """Of a tuple: "()", "[]", "[)", "(]"."""
    columns: int = 0
    """Of a matrix."""


def structure_of(text: str) -> Structure | None:
    """The parts of `text`; None when it is one formula, prose, too long, or its brackets do not fit."""
    if len(text) > MOST_CHARACTERS:
        return None
    return _read(_plain(text))


def _read(text: str) -> Structure | None:
    text = _MEMBERSHIP.sub("", text.strip())
    if not text or text.count("\\begin") > MOST_PARTS:
        return None
    joined = _split(text, _CUP)
    if joined and len(joined) > 1:
        parts = [_read(part) for part in joined]
        return Structure(Kind.UNION, tuple(part for part in parts if part)) if all(parts) else None
    return _matrix(text) or _bracketed(text) or _inequality(text) or _listed(text)


def _bracketed(text: str) -> Structure | None:
    opening, closing = text[0], text[-1]
    if opening not in _CLOSES or closing not in _OPENS or _closing_place(text) != len(text) - 1:
        return None
    parts = _split(text[1:-1], _commas(text[1:-1]))
    if parts is None:
        return None
    if opening == "{":
        return Structure(Kind.SET, _parts(parts)) if closing == "}" and parts != [""] else None
    if closing == "}" or len(parts) < 2 or not all(parts):
        return None
    return Structure(Kind.TUPLE, _parts(parts), opening + closing)


def _listed(text: str) -> Structure | None:
    text = _JOINING_WORD.sub(", ", text)
    if looks_like_prose(text):
        return None
    parts = [part for part in _split(text, _commas(text)) or () if part]
    if len(parts) > 1:
        return Structure(Kind.LIST, _parts(parts))
    sign = _PLUS_MINUS.search(text)
    if sign and len(_PLUS_MINUS.findall(text)) == 1 and _depth_at(text, sign.start()) == 0:
        return Structure(Kind.SET, tuple(f"{text[: sign.start()]}{one}{text[sign.end() :]}".strip().removeprefix("+") for one in "+-"))
    return None


def _matrix(text: str) -> Structure | None:
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match["body"]:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\", match["body"]) if row.strip() and row.strip() != "\\hline"]
    if not rows or len({len(row) for row in rows}) > 1 or len(rows) * len(rows[0]) > MOST_PARTS:
        return None
    cells = tuple(cell.strip() for row in rows for cell in row)
    # A row or column names the same vector as a tuple.
    return (
        Structure(Kind.TUPLE, cells, "()")
        if 1 in {len(rows), len(rows[0])} and len(cells) > 1
        else Structure(Kind.MATRIX, cells, columns=len(rows[0]))
    )


def _inequality(text: str) -> Structure | None:
    """a < x <= b and x > a as intervals."""
    signs = list(_LESS.finditer(text))
    if not 1 <= len(signs) <= 2 or looks_like_prose(text):
        return None
    terms = [text[a:b].strip() for a, b in zip([0, *(s.end() for s in signs)], [*(s.start() for s in signs), len(text)], strict=True)]
    less = [_is_less(sign.group()) for sign in signs]
    strict = [sign.group() in {"<", ">", "\\lt", "\\gt"} for sign in signs]
    if len(set(less)) > 1 or not all(terms):
        return None
    if not less[0]:
        terms, strict = terms[::-1], strict[::-1]
    if len(terms) == 2:
        if _VARIABLE.fullmatch(terms[0]):
            terms, strict = ["-\\infty", *terms], [True, *strict]
        elif _VARIABLE.fullmatch(terms[1]):
            terms, strict = [*terms, "\\infty"], [*strict, True]
        else:
            return None
    if not _VARIABLE.fullmatch(terms[1]):
        return None
    return Structure(Kind.TUPLE, (terms[0], terms[2]), ("(" if strict[0] else "[") + (")" if strict[1] else "]"))


def _parts(parts: list[str]) -> "tuple[str | Structure, ...]":
    """Parts that are structures in brackets themselves are taken apart too."""
    return tuple((_bracketed(part) if part[0] in _CLOSES else None) or part for part in parts if part)


def _split(text: str, separator: re.Pattern[str]) -> list[str] | None:
    """Pieces between separators outside all brackets; None when there are too many or the brackets do not fit."""
    pieces, start, depth, last = [], 0, 0, 0
    for match in separator.finditer(text):
        depth += _depth_change(text[last : match.start()])
        last = match.start()
        if depth == 0:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    depth += _depth_change(text[last:])
    pieces.append(text[start:].strip())
    return pieces if depth == 0 and len(pieces) <= MOST_PARTS else None


def _commas(text: str) -> re.Pattern[str]:
    """What separates parts: where some commas have a space behind them, one between digits without a space groups thousands."""
    return _SPACED_COMMA if re.search(r"[,;]\s", text) and _GROUPED.search(text) else _COMMA


def _depth_change(text: str) -> int:
    return sum(text.count(sign) for sign in "([{") - sum(text.count(sign) for sign in ")]}")


def _depth_at(text: str, place: int) -> int:
    return _depth_change(text[:place])


def _closing_place(text: str) -> int:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in _CLOSES) - (sign in _OPENS)
        if depth == 0:
            return place
    return -1


def _is_less(sign: str) -> bool:
    return sign[0] in "<≤" or sign.startswith("\\l")


def _plain(text: str) -> str:
    """Without delimiters of mathematics mode, spacing and sizes; braces that are shown are bare."""
    text = text.strip().rstrip(".").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            text = inner if opening not in inner else text.replace("$", "")
    text = _SPACING.sub(" ", text)
    for shown, bare in _SHOWN:
        text = text.replace(shown, bare)
    return _JOINING_TEXT.sub(r" \1 ", text).strip()


_CLOSES, _OPENS = frozenset("([{"), frozenset(")]}")
_SHOWN = (
    ("\\{", "{"),
    ("\\}", "}"),
    ("\\lbrace", "{"),
    ("\\rbrace", "}"),
    ("\\langle", "("),
    ("\\rangle", ")"),
    ("{,}", ","),
    ("∞", "\\infty"),
    ("∪", "\\cup "),
)
_SPACING = re.compile(r"(?<!\\)\\(?:left|right|displaystyle|quad|[,;!: ])(?![A-Za-z])|~")
_JOINING_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*(and|or)\s*\}")
_JOINING_WORD = re.compile(r",?\s+(?:and|or)\s+")
_MEMBERSHIP = re.compile(r"^[A-Za-z]\s*(?:\\in(?![a-z])|∈)\s*")
_CUP = re.compile(r"\\cup(?![a-z])|(?<=[)\]}])\s*[Uu]\s*(?=[(\[{])")
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])|±")
_COMMA = re.compile(r"[,;]")
_SPACED_COMMA = re.compile(r"[,;]\s|,(?!\d{3}(?!\d))|;")
_GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")
_LESS = re.compile(r"\\(?:leq?|geq?|lt|gt)(?![a-z])|<=?|>=?|≤|≥")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?:theta|alpha|beta|lambda)")
_MATRIX = re.compile(
    r"\\begin\s*\{(?P<name>[pbvBV]?matrix|smallmatrix|array)\}(?:\s*\{[^{}]{0,40}\})?(?P<body>.*?)\\end\s*\{(?P=name)\}", re.DOTALL
)
