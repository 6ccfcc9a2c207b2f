"""Rows of a JSONL file, plain or gzipped, and their fields with errors that name file, line and field."""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardmesh.audit.errors import AuditError

Prompt = tuple[tuple[str, str], ...]
"""Messages as (role, content)."""
_ENCODING = "utf-8-sig"
"""UTF-8, perhaps with a byte order mark, as some editors write it."""
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Row:
    """One JSON object of a file."""

    where: str
    """"file:line", for messages."""
    number: int
    fields: dict[str, Any]

    def wrong(self, field: str, problem: str) -> AuditError:
        """The error of a field."""
        return AuditError(f"{self.where}: {field}: {problem}")

    def text(self, field: str, *, default: str | None = None) -> str:
        """A field that is a text; not empty unless a default is given."""
        value = self.fields.get(field, default)
        if value is None:
            raise self.wrong(field, f"is missing; the line has {', '.join(self.fields) or 'no fields'}")
        if not isinstance(value, str) or (default is None and not value):
            raise self.wrong(field, "must be a text that is not empty")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A field that is a list of texts; a single text counts as a list of one; empty where it is missing."""
        value = self.fields.get(field, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong(field, "must be a list of texts")
        return tuple(value)

    def objects(self, field: str) -> list[dict[str, Any]]:
        """A field that is a list of objects, not empty."""
        value = self.fields.get(field)
        if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
            raise self.wrong(field, "must be a list of objects that is not empty")
        return value

    def prompt(self, field: str = "prompt") -> Prompt:
        """A text, which is one user message, or a list of {role, content}."""
        value = self.fields.get(field)
        if isinstance(value, str) and value:
            return (("user", value),)
        if not isinstance(value, list) or not value:
            raise self.wrong(field, "must be a text or a list of {role, content}, not empty")
        for index, turn in enumerate(value):
            if not isinstance(turn, dict) or turn.get("role") not in _ROLES or not isinstance(turn.get("content"), str):
                raise self.wrong(f"{field}[{index}]", f"must be {{role, content}} with a role of {', '.join(_ROLES)}")
        return tuple((turn["role"], turn["content"]) for turn in value)

    def refuse_misspelt(self, known: Sequence[str]) -> None:
        """Refuse a field that is nearly a known one which is missing: a misspelt label would be no label, and no one would know.

        Other fields are let through: data sets have more than an audit reads.
        """
        for field in self.fields:
            near = [] if field in known else difflib.get_close_matches(field, [name for name in known if name not in self.fields], 1, 0.8)
            if near:
                raise self.wrong(field, f"is unknown (did you mean {near[0]!r}?)")

    def id(self) -> str:
        """The field `id`, or the number of the line."""
        return self.text("id", default=str(self.number)) or str(self.number)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; empty lines are left out. At least one.

    Raises:
        AuditError: an unreadable file, a line that is no JSON object, a file without any.
    """
    found = False
    try:
        with gzip.open(path, "rt", encoding=_ENCODING) if path.suffix == ".gz" else path.open(encoding=_ENCODING) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    found = True
                    yield _row(path, number, line)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise AuditError(f"{path}: cannot be read: {error}") from error
    if not found:
        raise AuditError(f"{path}: holds no lines")


def is_gsm8k(fields: Sequence[str] | dict[str, Any]) -> bool:
    """Whether a row has the layout of GSM8K's model answers: {question, reference, answers: [{solution, is_correct, model?}]}."""
    return {"question", "reference", "answers"} <= set(fields)


def _row(path: Path, number: int, line: str) -> Row:
    try:
        fields = json.loads(line, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{path}:{number}: is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise AuditError(f"{path}:{number}: must be a JSON object")
    return Row(f"{path}:{number}", number, fields)


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError(f"a name is given twice: {', '.join(name for name, _ in members)}")
    return found
