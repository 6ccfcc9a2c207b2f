"""Lexical support: whether the words, numbers, names and quotations of a claim stand in passages, and whether one of the two is negated.

Words are compared without case and without common English endings; function words do not count. This sees neither paraphrase nor who did
what to whom, and of negation only whether a negating word is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from rewardmesh.verifier.sentences import sentences

_CHINESE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Kana and Chinese characters: each counts as a word."""
_LETTER = rf"[^\W\d_{_CHINESE}]"
_WORD = re.compile(rf"[{_CHINESE}]|{_LETTER}+(?:['’]{_LETTER}+)*|\d+(?:[.,]\d+)*")
_QUOTED = re.compile(r"\"([^\"\n]{1,1000})\"|“([^”\n]{1,1000})”|«([^»\n]{1,1000})»")
_GAP = re.compile(r"\[?(?:\.\.\.|…)\]?")
_NEGATIONS = "not no never none nobody nothing neither nor cannot without"
_NEGATING = frozenset(_NEGATIONS.split())
_FUNCTION = (
    "a about after all also although an and any are as at be been before being both but by can could did do does during each for "
    "from had has have having he her hers him his how however i if in into is it its itself just may me might more most must my of "
    "off on or other our out over own shall she should so some such than that the their them then there therefore these they this "
    "those through thus to too under until up very was we were what when where which while who whom whose why will with within "
    "would you your"
)
_FUNCTIONS = _NEGATING.union(_FUNCTION.split())
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
_SPELT = {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_ENDINGS = ("ingly", "edly", "ing", "ied", "ies", "ed", "es", "ly", "s")
_SHORTEST_STEM = 3


class Support(NamedTuple):
    """What was found for one claim."""

    recall: float
    """Share of the claim's content words that the passages hold, in [0, 1]."""
    missing: tuple[str, ...]
    """Numbers, names and quotations of the claim that they do not hold."""
    misquoted: bool
    """Whether a quotation is among them."""
    negation: bool
    """Whether exactly one of the claim and the sentence most like it holds a negating word."""


@dataclass(frozen=True)
class Passage:
    """A passage in the form that is compared; made by `passage`."""

    words: frozenset[str]
    folded: str
    """The text without case and with single spaces."""
    sentences: tuple[tuple[frozenset[str], bool], ...]
    """Content words of each sentence, and whether it negates."""


@lru_cache(maxsize=1024)
def passage(text: str) -> Passage:
    """Reads a passage. The answers to one prompt share it."""
    parts = [text[start:end] for start, end in sentences(text)] or [text]
    each = tuple((frozenset(content_words(part)), _negates(part)) for part in parts)
    words = {form for match in _WORD.finditer(text) for form in _forms(match.group())}
    return Passage(frozenset(words), _folded(text), each)


def content_words(text: str) -> list[str]:
    """The words of `text` that carry meaning, in the form that is compared, each once, in order."""
    return list(dict.fromkeys(_stem(match.group()) for match in _WORD.finditer(text) if match.group().casefold() not in _FUNCTIONS))


def support(claim: str, passages: Sequence[Passage]) -> Support:
    """How the passages together support a claim, a text without citation marks. Nothing supports without passages."""
    held = frozenset[str]().union(*(one.words for one in passages))
    words = content_words(claim)
    recall = sum(word in held for word in words) / len(words) if words else 0.0
    missing = [name for name in _names_and_numbers(claim) if not held.intersection(_forms(name))]
    wrong = [quoted for quoted in quotations(claim) if not any(_holds(one.folded, quoted) for one in passages)]
    return Support(recall, tuple(missing + wrong), bool(wrong), _opposed(claim, frozenset(words), passages))


def quotations(text: str) -> list[str]:
    """What stands in double quotation marks."""
    found = ("".join(group or "" for group in match.groups()).strip() for match in _QUOTED.finditer(text))
    return [one for one in found if _WORD.search(one)]


def _names_and_numbers(claim: str) -> list[str]:
    """Numbers, and words with a capital that does not come from the beginning of the sentence alone. "I" is no name."""
    words = _WORD.findall(claim)
    found = []
    for number, word in enumerate(words):
        second = words[number + 1] if number + 1 < len(words) else ""
        first = number == 0 and not (len(word) > 1 and word.isupper()) and not second[:1].isupper()
        capital = word[0].isupper() and not first
        if word[0].isdigit() or (capital and word != "I" and word.casefold() not in _FUNCTIONS):
            found.append(word)
    return list(dict.fromkeys(found))


def _opposed(claim: str, words: frozenset[str], passages: Sequence[Passage]) -> bool:
    nearest, negated = 0, False
    for one in passages:
        for others, negates in one.sentences:
            shared = len(words & others)
            if shared > nearest:
                nearest, negated = shared, negates
    return nearest > 0 and negated != _negates(claim)


def _negates(text: str) -> bool:
    found = (match.group().casefold().replace("’", "'") for match in _WORD.finditer(text))
    return any(word in _NEGATING or word.endswith("n't") for word in found)


def _holds(folded: str, quoted: str) -> bool:
    at = 0
    for part in _GAP.split(quoted):
        wanted = _folded(part).strip(" .,;:")
        found = folded.find(wanted, at)
        if found < 0:
            return False
        at = found + len(wanted)
    return True


def _folded(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


def _forms(word: str) -> set[str]:
    """The forms under which a word of a passage is found: its own, and of a small number in words the digits."""
    stem = _stem(word)
    return {stem, _SPELT[word.casefold()]} if word.casefold() in _SPELT else {stem}


def _stem(word: str) -> str:
    if word[0].isdigit():
        return _plain_number(word)
    word = word.casefold().replace("’", "'").removesuffix("'s").removesuffix("'")
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word[: -len(ending)].removesuffix("e")
    return word.removesuffix("e") if len(word) > _SHORTEST_STEM else word


def _plain_number(word: str) -> str:
    """Without separators of thousands, and without zeros behind a decimal point at the end."""
    whole = re.sub(r",(?=\d{3}(?!\d))", "", word)
    return whole.rstrip("0").rstrip(".") if "." in whole else whole
