"""Training examples from JSONL: a prompt, and the answers that belong to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardmesh.serving.config import ConfigError


def read_examples(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a JSONL file; `prompt` becomes (role, content) pairs, `fields` are non-empty strings.

    Raises:
        ConfigError: unreadable file, or a line that is not JSON or lacks a field, naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line), fields))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
    if not rows:
        raise ConfigError(f"{path}: holds no examples")
    return rows


def turns_of(value: Any) -> list[tuple[str, str]]:
    """(role, content) pairs of a prompt given as a string or as a list of {role, content}."""
    turns = [("user", value)] if isinstance(value, str) else [(str(turn["role"]), str(turn["content"])) for turn in value]
    if not any(content for _, content in turns):
        raise ValueError("the prompt is empty")
    return turns


def _row(record: Any, fields: Sequence[str]) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError("is not a JSON object")
    for field in ("prompt", *fields):
        if field not in record:
            raise ValueError(f"has no field {field!r}; its fields are {', '.join(record)}")
    for field in fields:
        if not isinstance(record[field], str) or not record[field]:
            raise TypeError(f"{field}: must be a string that is not empty")
    return {**record, "prompt": turns_of(record["prompt"])}
