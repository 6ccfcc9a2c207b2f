"""All constraints by id: reads them from options and from the references of samples, and names what is wrong with them."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from rewardmesh.verifier.rules import (
    case,
    combination,
    content,
    formats,
    keywords,
    language,
    length,
    markdown,
    outline,
    startend,
    structured,
)
from rewardmesh.verifier.rules.constraint import Constraint
from rewardmesh.verifier.strict_json import read_json

_Any = (
    keywords.Existence
    | keywords.Frequency
    | keywords.ForbiddenWords
    | keywords.LetterFrequency
    | keywords.BannedStrings
    | language.ResponseLanguage
    | length.NumberWords
    | length.NumberSentences
    | length.NumberParagraphs
    | length.NthParagraphFirstWord
    | length.Bounds
    | content.NumberPlaceholders
    | content.Postscript
    | formats.NumberBulletLists
    | formats.ConstrainedResponse
    | formats.NumberHighlightedSections
    | formats.MultipleSections
    | formats.JsonFormat
    | formats.Title
    | combination.TwoResponses
    | combination.RepeatPrompt
    | startend.EndChecker
    | startend.Quotation
    | startend.StartsWith
    | startend.EndsWith
    | case.CapitalWordFrequency
    | case.EnglishCapital
    | case.EnglishLowercase
    | case.NoComma
    | structured.JsonSchema
    | structured.Xml
    | structured.Regex
    | outline.Sections
    | outline.Tags
    | markdown.Tables
    | markdown.Headings
    | markdown.ListItems
    | markdown.CodeBlocks
)

CONSTRAINTS: dict[str, type[Constraint]] = {kind.model_fields["id"].default: kind for kind in _Any.__args__}
"""Every constraint by its id."""


def _read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate a constraint; one error that says all, in place of one for each member of the union."""
    if isinstance(value, Constraint):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise ValueError('must be an object with an "id", for example {"id": "punctuation:no_comma"}')
    known = CONSTRAINTS.get(value["id"])
    if known is None:
        near = difflib.get_close_matches(value["id"], CONSTRAINTS, n=1, cutoff=0)
        raise ValueError(f"unknown constraint {value['id'][:100]!r}; the nearest is {near[0]!r}")
    try:
        return handler(value)
    except ValidationError as error:
        from rewardmesh.serving.config import said  # heavy: workers start without it

        mistakes = []
        for item in error.errors(include_url=False):
            path = ".".join(str(part) for part in item["loc"] if part != value["id"])
            fields = ", ".join(name for name in known.model_fields if name != "id")
            message = f"unknown argument; known: {fields}" if item["type"] == "extra_forbidden" else said(item)
            mistakes.append(f"{path}: {message}" if path else message)
        raise ValueError(f"{value['id']}: {'; '.join(mistakes)}") from error


AnyConstraint = Annotated[_Any, Field(discriminator="id"), WrapValidator(_read)]
"""The type of an option that holds a constraint: an object with its id, its arguments and perhaps a weight."""

_ADAPTER: TypeAdapter[Constraint] = TypeAdapter(AnyConstraint)


@lru_cache(maxsize=4096)
def constraints_of(reference: str) -> tuple[Constraint, ...]:
    """The constraints that a reference holds as JSON, in IFEval's layout or as {"constraints": [...]}.

    IFEval's data sets hold null for every argument that an instruction does not have: null is no argument.

    Raises:
        ValueError: it holds none, or one that is wrong; the message names the place.
    """
    try:
        found = read_json(reference)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError('must be an object with "constraints", or with "instruction_id_list" and "kwargs"')
    if "constraints" in found:
        given, name = found["constraints"], "constraints"
    else:
        given, name = _from_ifeval(found), "instruction_id_list"
    if not isinstance(given, list) or not given:
        raise ValueError(f"{name}: must be a list of at least one constraint")
    read = []
    for index, one in enumerate(given):
        try:
            read.append(_ADAPTER.validate_python(one))
        except ValidationError as error:
            from rewardmesh.serving.config import said

            raise ValueError(f"{name}[{index}]: {said(error.errors(include_url=False)[0])}") from error
    return tuple(read)


def _from_ifeval(found: dict[str, Any]) -> Any:
    ids, arguments = found.get("instruction_id_list"), found.get("kwargs")
    if not isinstance(ids, list) or not isinstance(arguments, list) or len(ids) != len(arguments):
        raise ValueError("instruction_id_list and kwargs: must be two lists of the same length")
    if not all(isinstance(one, dict | None) for one in arguments):
        raise ValueError("kwargs: must hold objects")
    return [
        {"id": one, **{key: value for key, value in (given or {}).items() if value is not None}}
        for one, given in zip(ids, arguments, strict=True)
    ]
