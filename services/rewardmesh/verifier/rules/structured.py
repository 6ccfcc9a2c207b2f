"""format:json_schema, format:xml and format:regex - structured text. Not of IFEval.

JSON Schema is checked by jsonschema-rs (see `rewardmesh.verifier.json_schemas`).
XML is read by expat; a document type, and with it every entity that a document defines itself, is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from xml.parsers import expat

from pydantic import Field, PrivateAttr, StringConstraints

from rewardmesh.verifier.json_schemas import first_mistake, schema_text
from rewardmesh.verifier.patterns import LinearPattern, linear, small
from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text
from rewardmesh.verifier.rules.fences import fences, unfenced
from rewardmesh.verifier.strict_json import read_json

_Name = Annotated[str, StringConstraints(pattern=r"^[^\s<>/&\"'=]+$", max_length=100)]


class JsonSchema(Constraint):
    """A JSON value that keeps a schema."""

    quick: ClassVar[bool] = False

    id: Literal["format:json_schema"] = "format:json_schema"
    json_schema: dict[str, Any] = Field(description="The schema.")
    where: Literal["whole", "fence"] = Field(
        "whole", description="whole: the text is the value, perhaps in a fence. fence: the last fenced block is."
    )
    _written: str = PrivateAttr("")

    def model_post_init(self, context: Any, /) -> None:
        """Refuse what is no schema."""
        self._written = schema_text(self.json_schema)

    def __hash__(self) -> int:
        return hash((self.id, self.where, self.weight, self._written))

    def check(self, text: Text) -> Finding:
        """The evidence names the first place that breaks the schema."""
        span: tuple[int, int] | None = None
        body = unfenced(text.whole, "json")
        if self.where == "fence":
            blocks = [block for block in fences(text.whole) if block[0] in {"", "json"}]
            if not blocks:
                return Finding(False, "no fenced JSON")
            span = blocks[-1][1:]
            body = text.whole[slice(*span)]
        try:
            value = read_json(body)
        except ValueError as error:
            return Finding(False, f"not JSON: {error}", span)
        mistake = first_mistake(self._written, value)
        return Finding(not mistake, mistake or "keeps the schema", span)


class Xml(Constraint):
    """Well-formed XML with the wanted elements."""

    id: Literal["format:xml"] = "format:xml"
    root: _Name | None = Field(None, description="Name of the outermost element; unset for any.")
    required_elements: tuple[_Name, ...] = Field((), max_length=64, description="Elements that must occur, anywhere.")
    fragment: bool = Field(False, description="Whether the text may hold several outermost elements, and text beside them.")

    def check(self, text: Text) -> Finding:
        """The evidence says where expat stopped reading."""
        body = unfenced(text.whole, "xml")
        names: list[str] = []
        parser = expat.ParserCreate()
        parser.StartElementHandler = lambda name, _: names.append(name)
        parser.StartDoctypeDeclHandler = _refuse
        try:
            parser.Parse(f"<fragment>{body}</fragment>" if self.fragment else body, True)
        except (expat.ExpatError, _DocumentType) as error:
            return Finding(False, f"not well-formed XML: {error}")
        names = names[1:] if self.fragment else names
        if self.root is not None and (not names or names[0] != self.root):
            return Finding(False, f"the outermost element is {names[0] if names else 'missing'}; {self.root} wanted")
        missing = [name for name in self.required_elements if name not in set(names)]
        return Finding(not missing, f"lacks {', '.join(missing)}" if missing else f"well-formed XML of {len(names)} elements")


class Regex(Constraint):
    """A pattern of RE2 that must be found, or must not."""

    id: Literal["format:regex"] = "format:regex"
    pattern: LinearPattern
    expected: Literal["match", "no match"] = "match"
    whole: bool = Field(False, description="Whether the pattern has to match the whole text instead of a part.")

    def cheap(self) -> bool:
        """Whether the pattern is small."""
        return small(self.pattern)

    def check(self, text: Text) -> Finding:
        """The span is the match."""
        compiled = linear(self.pattern)
        match = compiled.fullmatch(text.whole) if self.whole else compiled.search(text.whole)
        kept = (match is not None) == (self.expected == "match")
        return Finding(kept, f"{self.pattern[:100]!r} was {'not ' if match is None else ''}found", match.span() if match else None)


class _DocumentType(Exception):
    pass


def _refuse(name: str, *_: Any) -> None:
    raise _DocumentType(f"a document type ({name[:40]}) is not allowed")
