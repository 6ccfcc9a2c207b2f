"""change_case:* and punctuation:no_comma - capitals, small letters, commas.

IFEval's `english_capital` and `english_lowercase` also ask for English. The case decides first; then only a text that clearly is in another
language breaks the constraint, since capitals say little about a language.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.verifier.languages import language_of
from rewardmesh.verifier.rules.constraint import Constraint, Finding, Relation, Text, compared

_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LETTER = re.compile(r"[^\W\d_]")


class CapitalWordFrequency(Constraint):
    """So many words wholly in capitals; "A" and "I" are such words."""

    id: Literal["change_case:capital_word_frequency"] = "change_case:capital_word_frequency"
    capital_frequency: int = Field(ge=0)
    capital_relation: Relation = "at least"

    def check(self, text: Text) -> Finding:
        """A word keeps its inner hyphens and apostrophes."""
        count = sum(1 for match in _TOKEN.finditer(text.whole) if match.group().isupper())
        return compared(count, self.capital_relation, self.capital_frequency, "words in capitals")


class _English(Constraint):
    quick: ClassVar[bool] = False

    def _judge(self, text: str, cased: bool, wanted: str) -> Finding:
        if not cased:
            wrong = next((match for match in _LETTER.finditer(text) if getattr(match.group(), f"is{_OTHER[wanted]}")()), None)
            return Finding(False, f"not all in {wanted}", wrong.span() if wrong else None)
        language = language_of(text)
        return Finding(language in {"en", None}, f"all in {wanted}, in {language or 'a language that cannot be told'}; en wanted")


_OTHER = {"capitals": "lower", "small letters": "upper"}


class EnglishCapital(_English):
    """All letters are capitals, and the text is English."""

    id: Literal["change_case:english_capital"] = "change_case:english_capital"

    def check(self, text: Text) -> Finding:
        """The span is the first small letter."""
        return self._judge(text.whole, text.whole.isupper(), "capitals")


class EnglishLowercase(_English):
    """All letters are small, and the text is English."""

    id: Literal["change_case:english_lowercase"] = "change_case:english_lowercase"

    def check(self, text: Text) -> Finding:
        """The span is the first capital."""
        return self._judge(text.whole, text.whole.islower(), "small letters")


class NoComma(Constraint):
    """No comma at all."""

    id: Literal["punctuation:no_comma"] = "punctuation:no_comma"

    def check(self, text: Text) -> Finding:
        """The ASCII comma, as IFEval checks."""
        at = text.whole.find(",")
        return Finding(False, f"a comma at {at}", (at, at + 1)) if at >= 0 else Finding(True, "no comma")
