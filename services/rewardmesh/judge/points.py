"""Critiques as a model writes them, read: a summary, and points on the answer's own words.

As JSON under a grammar, or a line a point: `"words" -> value: comment`. A critique that is neither is unreadable.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from rewardmesh.engine.writing import JsonGrammar, Written
from rewardmesh.judge.quotes import Quotes, unmarked
from rewardmesh.judge.reading import last_object, object_grammar
from rewardmesh.judge.rendering import Marking
from rewardmesh.judge.votes import unreadable
from rewardmesh.v1 import common_pb2 as pb

LONGEST_LABEL = 32
_LINE = re.compile(r"""^\W{0,4}["“](?P<quote>.+?)["”]\s*(?:->|→|:|-)\s*(?:\(?(?P<value>[+-]?\d*\.?\d+)\)?\s*[:,-]?\s*)?(?P<comment>.*)$""")


@dataclass(frozen=True)
class Point:
    """One point.

    Attributes:
        quote: words of the answer; may be wrong.
        value: in [-1, 1]; None for a mere remark.
    """

    quote: str
    comment: str
    value: float | None
    label: str


@dataclass(frozen=True)
class Remarks:
    """A critique that was read."""

    summary: str
    points: tuple[Point, ...]

    @property
    def text(self) -> str:
        """All of it for people, a line a point."""
        lines = [f'"{point.quote}"{"" if point.value is None else f" ({point.value:+g})"}: {point.comment}' for point in self.points]
        return "\n".join([self.summary, *lines] if self.summary else lines)

    def spans(self, completion: str, marking: Marking) -> list[pb.Span]:
        """The points whose words stand in the completion."""
        quotes = Quotes(completion)
        spans = []
        for point in self.points:
            if place := quotes.place(unmarked(point.quote, marking)):
                spans.append(pb.Span(start=place[0], end=place[1], value=point.value, label=point.label, comment=point.comment))
        return spans


def remarks_grammar(max_points: int) -> JsonGrammar:
    """{"summary", "points": at most so many of {"quote", "comment", "value", "label"}}."""
    point = {
        "quote": {"type": "string"},
        "comment": {"type": "string"},
        "value": {"type": "number", "minimum": -1, "maximum": 1},
        "label": {"type": "string", "maxLength": LONGEST_LABEL},
    }
    entry = {"type": "object", "properties": point, "required": list(point), "additionalProperties": False}
    return object_grammar({"summary": {"type": "string"}, "points": {"type": "array", "items": entry, "maxItems": max_points}})


def read_remarks(written: Written, max_points: int, *, lines: bool) -> Remarks | pb.Absence:
    """The critique that was written, or UNPARSABLE; points beyond `max_points` are left out."""
    if lines:
        read = _read_lines(written.text)
    else:
        document = last_object(written.text, "points")
        read = None if document is None else _read_document(document)
    if read is None:
        why = "the critique is cut off; raise the template's max_tokens" if written.finish == "length" else "no critique can be read"
        return unreadable(written.text, why)
    return Remarks(read.summary, read.points[:max_points])


def _read_document(document: dict[str, Any]) -> Remarks | None:
    points = document["points"]
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        return None
    return Remarks(_text(document.get("summary")), tuple(map(_point, points)))


def _point(fields: dict[str, Any]) -> Point:
    value = fields.get("value")
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return Point(
        quote=_text(fields.get("quote")),
        comment=_text(fields.get("comment")),
        value=min(max(float(value), -1.0), 1.0) if number else None,  # type: ignore[arg-type]  # `number` says so
        label=_text(fields.get("label"))[:LONGEST_LABEL],
    )


def _read_lines(text: str) -> Remarks | None:
    summary: list[str] = []
    points: list[Point] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if found := _LINE.match(line):
            points.append(_point({**found.groupdict(), "value": found["value"] and float(found["value"])}))
        elif not points:
            summary.append(line)
    return Remarks(" ".join(summary), tuple(points)) if points or summary else None


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
