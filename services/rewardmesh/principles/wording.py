"""Principles as text: one sentence each, without the marks of a list, and those that say the same in almost the same words as one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST_CHARACTERS = 300
FEWEST_WORDS = 3

_MARK = re.compile(r"^\s*(?:[-*•>|]+|\(?\d{1,2}[.):]|(?:general\s+)?principle\s*\d*\s*:)\s*", re.IGNORECASE)
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        "a an and are as be by for if in is it its of on or should that the their them they this to which with"
        " answer answers response responses prefer preferred choose chosen",
    )
)
"""Words that say nothing about what is preferred; a negation is none of them."""


@dataclass(frozen=True)
class Candidate:
    """A principle and where it came from: given by a person, and how often a judge proposed it or one like it."""

    id: str
    text: str
    given: bool
    proposed: int

    @property
    def source(self) -> str:
        """For people."""
        proposals = f"proposed {self.proposed} times" if self.proposed > 1 else "proposed once" if self.proposed else ""
        return ", ".join(filter(None, ("given" if self.given else "", proposals)))


def normalise(text: str) -> str | None:
    """One sentence without the marks of a list and with a full stop, or None when it is no principle: too short, too long, a question."""
    sentence = " ".join(text.split())
    while (shorter := _MARK.sub("", sentence)) != sentence:
        sentence = shorter
    sentence = sentence.strip(" \"'“”‘’*_`")
    if len(sentence.split()) < FEWEST_WORDS or len(sentence) > MOST_CHARACTERS or sentence.endswith("?"):
        return None
    return sentence[0].upper() + sentence[1:] + ("" if sentence[-1] in ".!" else ".")


def similarity(one: str, other: str) -> float:
    """Share of all their telling words that both have, in [0, 1]; 1 for two texts without any."""
    words, others = _words(one), _words(other)
    return len(words & others) / len(words | others) if words | others else 1.0


def distinct(given: Iterable[str], proposed: Iterable[str], least: float) -> list[Candidate]:
    """Candidates of normalised texts: one whose similarity with an earlier one is `least` or more only adds to its count."""
    kept: list[tuple[str, bool]] = []
    counts: list[int] = []
    for text, by_a_person in [*((text, True) for text in given), *((text, False) for text in proposed)]:
        place = next((n for n, (known, _) in enumerate(kept) if similarity(text, known) >= least), None)
        if place is None:
            kept.append((text, by_a_person))
            counts.append(0)
            place = len(kept) - 1
        counts[place] += not by_a_person
    taken: set[str] = set()
    return [Candidate(_identifier(text, taken), text, by, count) for (text, by), count in zip(kept, counts, strict=True)]


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"\w+", text.casefold()) if word not in _EMPTY}


def _identifier(text: str, taken: set[str]) -> str:
    words = [word for word in re.findall(r"[a-z0-9]+", text.casefold()) if word not in _EMPTY]
    base = "-".join(words[:4]) or "principle"
    number = 1
    while (identifier := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    taken.add(identifier)
    return identifier
