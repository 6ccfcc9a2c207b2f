"""Checks JSON values by JSON Schema (drafts up to 2020-12), with jsonschema-rs: linear regular expressions, and no reference is fetched."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jsonschema_rs


def schema_text(schema: dict[str, Any]) -> str:
    """The schema as text, by which its validator is kept.

    Raises:
        ValueError: it is no schema, or refers to another document.
    """
    written = json.dumps(schema)
    _validator(written)
    return written


def first_mistake(schema: str, value: Any) -> str:
    """Where a value first breaks the schema (of `schema_text`), and how; empty when it keeps it."""
    wrong = next(iter(_validator(schema).iter_errors(value)), None)
    if wrong is None:
        return ""
    path = "".join(f"[{part!r}]" for part in wrong.instance_path) or "the value"
    return f"{path[:100]}: {wrong.message[:200]}"


@lru_cache(maxsize=512)
def _validator(schema: str) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(json.loads(schema), pattern_options=jsonschema_rs.RegexOptions(), offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(f"is no JSON Schema this server reads: {str(error).splitlines()[0][:300]}") from error
