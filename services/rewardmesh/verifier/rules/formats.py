"""detectable_format:* - bullets, highlights, sections, a title, JSON, one of three fixed answers."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text, compared
from rewardmesh.verifier.rules.fences import unfenced
from rewardmesh.verifier.strict_json import read_json

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_BULLET = re.compile(r"^[^\S\n]*(?:\*(?!\*)|-)(?=[^\n]*\S)(?!-+[^\S\n]*$)", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*")
_TITLE = re.compile(r"<<[^\n<>]*>>")


class NumberBulletLists(Constraint):
    """Exactly so many bullet points: lines that begin with "*" or "-"."""

    id: Literal["detectable_format:number_bullet_lists"] = "detectable_format:number_bullet_lists"
    num_bullets: int = Field(ge=0)

    def check(self, text: Text) -> Finding:
        """Lines of emphasis ("**") and rules ("---") are no bullet points."""
        return compared(sum(1 for _ in _BULLET.finditer(text.whole)), "exactly", self.num_bullets, "bullet points")


class ConstrainedResponse(Constraint):
    """The text holds one of "My answer is yes.", "My answer is no." and "My answer is maybe."."""

    id: Literal["detectable_format:constrained_response"] = "detectable_format:constrained_response"

    def check(self, text: Text) -> Finding:
        """Case and full stop count."""
        for answer in CONSTRAINED:
            at = text.whole.find(answer)
            if at >= 0:
                return Finding(True, f"{answer!r} occurs", (at, at + len(answer)))
        return Finding(False, f"none of {', '.join(map(repr, CONSTRAINED))} occurs")


class NumberHighlightedSections(Constraint):
    """At least so many parts `*highlighted*` with one or two asterisks on either side."""

    id: Literal["detectable_format:number_highlighted_sections"] = "detectable_format:number_highlighted_sections"
    num_highlights: int = Field(ge=0)

    def check(self, text: Text) -> Finding:
        """Blank parts do not count."""
        count = sum(1 for match in _HIGHLIGHT.finditer(text.whole) if match.group().strip("* \t"))
        return compared(count, "at least", self.num_highlights, "highlighted parts")


class MultipleSections(Constraint):
    """At least so many sections, each begun by the splitter and a number: "Section 1"."""

    id: Literal["detectable_format:multiple_sections"] = "detectable_format:multiple_sections"
    section_spliter: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    num_sections: int = Field(ge=0)

    def check(self, text: Text) -> Finding:
        """Case counts."""
        count = sum(1 for _ in _section(self.section_spliter).finditer(text.whole))
        return compared(count, "at least", self.num_sections, f"sections begun by {self.section_spliter!r} and a number")


class JsonFormat(Constraint):
    """The whole text is one JSON value, perhaps in a code fence."""

    id: Literal["detectable_format:json_format"] = "detectable_format:json_format"

    def check(self, text: Text) -> Finding:
        """As strict as `read_json`."""
        try:
            read_json(unfenced(text.whole, "json"))
        except ValueError as error:
            return Finding(False, f"not JSON: {error}")
        return Finding(True, "one JSON value")


class Title(Constraint):
    """A title in double angular brackets: `<<title>>`."""

    id: Literal["detectable_format:title"] = "detectable_format:title"

    def check(self, text: Text) -> Finding:
        """A blank title is none."""
        for match in _TITLE.finditer(text.whole):
            if match.group()[2:-2].strip():
                return Finding(True, f"title at {match.start()}", match.span())
        return Finding(False, "no <<title>> with words in it")


@lru_cache(maxsize=256)
def _section(splitter: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(splitter)}[^\S\n]?\d+")
