"""detectable_content:* - placeholders and a postscript."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text, compared

_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\]")


class NumberPlaceholders(Constraint):
    """At least so many placeholders in square brackets, such as [address]."""

    id: Literal["detectable_content:number_placeholders"] = "detectable_content:number_placeholders"
    num_placeholders: int = Field(ge=0)

    def check(self, text: Text) -> Finding:
        """Brackets do not nest, and close on the same line."""
        return compared(sum(1 for _ in _PLACEHOLDER.finditer(text.whole)), "at least", self.num_placeholders, "placeholders")


class Postscript(Constraint):
    """A postscript that begins with the marker: "P.S.", "P.P.S" or other text."""

    id: Literal["detectable_content:postscript"] = "detectable_content:postscript"
    postscript_marker: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]

    def check(self, text: Text) -> Finding:
        """The marker stands at the beginning of a line or behind white space; spaces after its full stops do not count."""
        match = _marker(self.postscript_marker).search(text.whole)
        if match is None:
            return Finding(False, f"no {self.postscript_marker!r} occurs")
        return Finding(True, f"{self.postscript_marker!r} at {match.start()}", match.span())


@lru_cache(maxsize=256)
def _marker(marker: str) -> re.Pattern[str]:
    body = r"\.[^\S\n]?".join(map(re.escape, marker.removesuffix(".").split(".")))
    return re.compile(rf"(?<![^\s*_]){body}{re.escape('.') if marker.endswith('.') else ''}", re.IGNORECASE)
