"""language:response_language - the whole answer is in one language.

IFEval asks langdetect for the language of the text and lets pass what it cannot tell. Here short text, and text that mixes languages, are
undecided: no verdict. Fenced code is not read.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from rewardmesh.verifier.languages import KNOWN, shares
from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text, Undecided
from rewardmesh.verifier.verdicts import Reason

WHOLE = 0.85
"""Share of the letters in one language from which the text is in it."""
HARDLY = 0.15
"""Share up to which a text is not in a language, when all the rest clearly is in others."""


class ResponseLanguage(Constraint):
    """The answer is in `language`."""

    quick: ClassVar[bool] = False

    id: Literal["language:response_language"] = "language:response_language"
    language: str = Field(description='ISO 639-1 code; a region ("zh-cn") does not count.')

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        if language.lower().split("-")[0] not in KNOWN:
            raise ValueError(f"unknown language {language!r}; known: {', '.join(sorted(KNOWN))}")
        return language

    def check(self, text: Text) -> Finding | Undecided:
        """Undecided for short and for mixed text."""
        wanted = self.language.lower().split("-")[0]
        found = shares(text.whole)
        share, unknown = found.get(wanted, 0.0), found.get(None, 0.0)
        evidence = ", ".join(f"{language or 'unclear'} {part:.0%}" for language, part in sorted(found.items(), key=lambda item: -item[1]))
        if share >= WHOLE:
            return Finding(True, f"{evidence} of the letters; {wanted} wanted")
        if found and share + unknown <= HARDLY:
            return Finding(False, f"{evidence} of the letters; {wanted} wanted")
        return Undecided(Reason.ABSTAINED, f"the language cannot be told ({evidence or 'no letters'}); {wanted} wanted")
