"""keywords:* - words and phrases that must occur, must not, or must occur so many times.

Phrases are plain text, whatever the case of letters. `keywords:existence` and `keywords:frequency` find them inside longer words too, as
IFEval does; `keywords:forbidden_words` means whole words. `keywords:banned_strings` is not of IFEval: plain strings that may not occur.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Relation, Text, compared
from rewardmesh.verifier.rules.words import Phrase, occurrences


class Existence(Constraint):
    """Every keyword occurs."""

    id: Literal["keywords:existence"] = "keywords:existence"
    keywords: tuple[Phrase, ...] = Field(min_length=1, max_length=64)

    def check(self, text: Text) -> Finding:
        """Broken by the first keyword that is missing."""
        for keyword in self.keywords:
            if next(occurrences(text.whole, keyword), None) is None:
                return Finding(False, f"{keyword!r} does not occur")
        return Finding(True, f"all {len(self.keywords)} keywords occur")


class Frequency(Constraint):
    """The keyword occurs so many times."""

    id: Literal["keywords:frequency"] = "keywords:frequency"
    keyword: Phrase
    frequency: int = Field(ge=0)
    relation: Relation = "at least"

    def check(self, text: Text) -> Finding:
        """Occurrences do not overlap."""
        count = sum(1 for _ in occurrences(text.whole, self.keyword))
        return compared(count, self.relation, self.frequency, f"times {self.keyword!r}")


class ForbiddenWords(Constraint):
    """None of the words occurs as a whole word."""

    id: Literal["keywords:forbidden_words"] = "keywords:forbidden_words"
    forbidden_words: tuple[Phrase, ...] = Field(min_length=1, max_length=64)

    def check(self, text: Text) -> Finding:
        """Broken by the first of the words that occurs."""
        for word in self.forbidden_words:
            span = next(occurrences(text.whole, word, whole_words=True), None)
            if span is not None:
                return Finding(False, f"{word!r} occurs at {span[0]}", span)
        return Finding(True, f"none of {len(self.forbidden_words)} forbidden words occurs")


class LetterFrequency(Constraint):
    """The letter (or sign) occurs so many times, whatever its case."""

    id: Literal["keywords:letter_frequency"] = "keywords:letter_frequency"
    letter: Annotated[str, StringConstraints(min_length=1, max_length=1)]
    let_frequency: int = Field(ge=0)
    let_relation: Relation = "at least"

    def check(self, text: Text) -> Finding:
        """Counts code points."""
        count = text.whole.lower().count(self.letter.lower())
        return compared(count, self.let_relation, self.let_frequency, f"times the letter {self.letter!r}")


class BannedStrings(Constraint):
    """None of the strings occurs, anywhere."""

    id: Literal["keywords:banned_strings"] = "keywords:banned_strings"
    strings: tuple[Phrase, ...] = Field(min_length=1, max_length=1024)
    ignore_case: bool = False

    def check(self, text: Text) -> Finding:
        """Broken by the first of the strings that occurs."""
        whole = text.whole.lower() if self.ignore_case else text.whole
        for string in self.strings:
            at = whole.find(string.lower() if self.ignore_case else string)
            if at >= 0:
                # Lower case may be longer than the text it comes from: then offsets in it mean nothing.
                same = len(whole) == len(text.whole)
                return Finding(False, f"{string!r} occurs", (at, at + len(string)) if same else None)
        return Finding(True, f"none of {len(self.strings)} banned strings occurs")
