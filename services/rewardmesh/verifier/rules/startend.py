"""startend:* - how the text begins and ends. `starts_with` and `ends_with` are not of IFEval: any of several phrases, exactly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text

_Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]


class EndChecker(Constraint):
    """The text ends with the phrase and nothing after it."""

    id: Literal["startend:end_checker"] = "startend:end_checker"
    end_phrase: _Phrase

    def check(self, text: Text) -> Finding:
        """Case, white space and quotation marks at the end do not count."""
        kept = text.whole.strip().strip('"').casefold().rstrip().endswith(self.end_phrase.casefold())
        return Finding(kept, f"ends {'' if kept else 'not '}with {self.end_phrase[:60]!r}")


class Quotation(Constraint):
    """The whole text stands in double quotation marks."""

    id: Literal["startend:quotation"] = "startend:quotation"

    def check(self, text: Text) -> Finding:
        """Straight marks only, as IFEval asks for."""
        whole = text.whole.strip()
        kept = len(whole) > 1 and whole.startswith('"') and whole.endswith('"')
        return Finding(kept, f"{'' if kept else 'not '}in double quotation marks")


class _Edge(Constraint):
    phrases: tuple[_Phrase, ...] = Field(min_length=1, max_length=64, description="Any of these.")
    ignore_case: bool = False

    def _found(self, text: str, *, start: bool) -> Finding:
        text = text.strip()
        for phrase in self.phrases:
            edge = text[: len(phrase)] if start else text[-len(phrase) :]
            if edge == phrase or (self.ignore_case and edge.casefold() == phrase.casefold()):
                return Finding(True, f"{'begins' if start else 'ends'} with {phrase[:60]!r}")
        return Finding(False, f"{'begins' if start else 'ends'} with none of {len(self.phrases)} phrases")


class StartsWith(_Edge):
    """The text begins with one of the phrases, after white space."""

    id: Literal["startend:starts_with"] = "startend:starts_with"

    def check(self, text: Text) -> Finding:
        """Looks at the beginning."""
        return self._found(text.whole, start=True)


class EndsWith(_Edge):
    """The text ends with one of the phrases, before white space."""

    id: Literal["startend:ends_with"] = "startend:ends_with"

    def check(self, text: Text) -> Finding:
        """Looks at the end."""
        return self._found(text.whole, start=False)
