"""Reads JSON that other programs would read too, from text that may be hostile. Linear in the text."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def read_json(text: str) -> Any:
    """The value that `text` holds.

    Raises:
        ValueError: it is not JSON; or it holds what programs read differently: NaN, a number beyond floats, a name twice in one object,
            half a surrogate pair, an integer of thousands of digits, or thousands of levels.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("an integer of thousands of digits") from error
        raise
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half a surrogate pair in a string") from error
    return value


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        raise ValueError(f"{number[:40]} is beyond the range of numbers")
    return found


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        twice = next(name for name, times in Counter(name for name, _ in members).items() if times > 1)
        raise ValueError(f"{twice[:40]!r} is given twice in one object")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
