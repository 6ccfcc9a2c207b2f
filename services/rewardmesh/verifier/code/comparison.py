"""Compares what a program gave with what was expected: outside of any sandbox, by value."""

from __future__ import annotations

import json
import math
from typing import Any


def same_text(expected: str, found: str) -> bool:
    """Whether two outputs are equal but for whitespace at the ends of lines and of the text."""
    return _trimmed(expected) == _trimmed(found)


def same_tokens(expected: str, found: str, tolerance: float) -> bool:
    """Whether two outputs have the same words, numbers within a tolerance (relative or absolute)."""
    words, others = expected.split(), found.split()
    return len(words) == len(others) and all(map(_same_token, words, others, [tolerance] * len(words)))


def same_value(expected: Any, found: Any, tolerance: float) -> bool:
    """Whether two values are equal: floats within a tolerance, NaN as itself, tuples as lists (JSON has no tuples).

    Where `expected` comes from JSON, keys that JSON writes as strings (numbers, booleans, None) equal their texts.
    """
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return _close(expected, found, tolerance)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(expected) == len(found) and all(same_value(one, two, tolerance) for one, two in zip(expected, found, strict=True))
    if isinstance(expected, dict) and isinstance(found, dict):
        keyed = {_key(key): value for key, value in found.items()}
        wanted = {_key(key): value for key, value in expected.items()}
        if len(keyed) != len(found) or keyed.keys() != wanted.keys():
            return False
        return all(same_value(value, keyed[key], tolerance) for key, value in wanted.items())
    return bool(type(expected) is type(found) and expected == found)


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _same_token(expected: str, found: str, tolerance: float) -> bool:
    if expected == found:
        return True
    try:
        return _close(float(expected), float(found), tolerance)
    except ValueError:
        return False


def _close(expected: float, found: float, tolerance: float) -> bool:
    if expected == found:
        return True
    if isinstance(expected, int) and isinstance(found, int):
        return False
    try:
        both_nan = math.isnan(expected) and math.isnan(found)
        return both_nan or math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:
        return False


def _key(key: Any) -> Any:
    return json.dumps(key) if key is None or isinstance(key, bool | int | float) else key
