"""Answers that are no mathematics: the letter of an option, and a few words such as "yes", "even" or "New York"."""

import re

from rewardmesh.verifier.answers import Answer
from rewardmesh.verifier.numbers import plain

MOST_WORDS = 3
"""A reference of more words is prose, of which no answer can be compared."""
LAST_LINE = 80
"""Code points of a last line that is taken for an answer in words."""
TAIL = 4096
"""Code points at the end of the text that are searched for an option."""

_LETTER = r"[A-J]"
_ALONE = re.compile(rf"\(?({_LETTER}|[a-j](?=\)))\)?\s*[.:]?")
_FIRST = re.compile(rf"(?:option|choice)?\s*(?:\(({_LETTER}|[a-j])\)|({_LETTER})(?=[).:,;]|\s*$|\s+(?:because|since|as)\b))", re.IGNORECASE)
_LAST = re.compile(rf"\b(?:option|choice)\s+\(?({_LETTER})\b\)?|\(({_LETTER})\)|^\s*({_LETTER})[.)]?\s*$", re.IGNORECASE | re.MULTILINE)
_WORDS = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*(?:\s+[^\W\d_]+(?:[-'’][^\W\d_]+)*){0,%d}" % (MOST_WORDS - 1))  # noqa: UP031 - braces
_END = re.compile(r"[.,;:!?()]|\s(?:because|since|as|so)\b|$", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)
_MATHEMATICS = frozenset({"pi", "infinity", "infty", "inf", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "xy", "ab"})


def option_letter(text: str) -> str | None:
    """The letter when `text` is nothing but the letter of an option: "B", "(b)", "\\text{C}."; upper case."""
    match = _ALONE.fullmatch(plain(text))
    return match[1].upper() if match else None


def chosen_option(answer: Answer) -> str | None:
    """The letter of the option that a stated answer begins with: "B) 12 cm", "option (C) because ...". None without one."""
    match = _FIRST.match(plain(answer.text))
    if match is None:
        return option_letter(answer.text)
    letter, text = match[1] or match[2], match.string
    # A small letter without any bracket may be a variable or the article.
    return letter.upper() if match[1] or letter.isupper() or text[match.end() : match.end() + 1] == ")" else None


def last_option(text: str) -> Answer | None:
    """The last option that a text without markers names: "so option B", "(C)"."""
    offset = max(0, len(text) - TAIL)
    found = list(_LAST.finditer(text, offset))
    if not found:
        return None
    group = found[-1].lastindex or 0
    return Answer(found[-1][group], *found[-1].span(group), "the last option", None)


def reference_words(text: str) -> str | None:
    """The normal form of a reference in words; None when it is none: mathematics, a number, or prose."""
    cleaned = plain(text).rstrip(".!")
    if not _WORDS.fullmatch(cleaned) or len(cleaned) < 2 or cleaned.lower() in _MATHEMATICS:
        return None
    return _normal(cleaned)


def stated_words(answer: Answer) -> str:
    """The normal form of an answer's words, up to the first mark of punctuation or reason: "Yes, because ..." is "yes"."""
    text = plain(answer.text)
    end = _END.search(text)
    return _normal(text[: end.start()] if end else text)


def last_line(text: str) -> Answer | None:
    """The last line of a text without markers, when it is short enough to be an answer."""
    stripped = text.rstrip()
    start = stripped.rfind("\n") + 1
    line = stripped[start:]
    return Answer(line, start, start + len(line), "the last line", None) if 0 < len(line) <= LAST_LINE else None


def _normal(text: str) -> str:
    text = " ".join(text.replace("’", "'").split()).strip(" '\"*_")
    return _ARTICLE.sub("", text).casefold()
