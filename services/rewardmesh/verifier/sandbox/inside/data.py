"""Values as JSON, so that nothing but data crosses a border: no class, no code, no `__eq__` of the other side comes back to life.

null, booleans, strings, integers of at most 53 bits (and, when read, numbers of JSON) are themselves; all else is a list whose head names
the type: ["i", hexadecimal], ["f", float.hex()], ["b", hexadecimal], ["l" | "t" | "s" | "z", [items]] for list, tuple, set and frozenset,
["d", [[key, value], ...]], ["c", real, imaginary], ["r", start, stop, step] for a range, ["x", "Fraction" | "Decimal", text]. A caller may
add kinds of its own (handles) through `other`.
"""

from __future__ import annotations

from rewardmesh.verifier.sandbox.inside import frames

TYPE_CHECKING = False  # typing's own would have to be imported, which costs more than all else here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST_BYTES = 2**22
"""Largest encoded value."""
DEEPEST = 100
"""Nested containers beyond which a value is no data."""
_EXACT = 2**53
_MOST_BITS = 2**20
_MOST_DIGITS = 4000
_NUMBERS = {("fractions", "Fraction"), ("decimal", "Decimal")}
_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z"}


class NotData(Exception):
    """A value that cannot be expressed as data, or an encoding that is none."""


def encode(value: object, other: Callable[[object], list[Any]] | None = None) -> Any:
    """`value` in a form that json.dumps takes; raises NotData."""
    try:
        return _encode(value, other, DEEPEST)
    except RecursionError as error:
        raise NotData("the value is nested too deeply") from error


def decode(encoded: Any, other: Callable[[list[Any]], object] | None = None) -> Any:
    """The value of an encoding that json.loads gave, whoever wrote it; raises NotData."""
    try:
        return _decode(encoded, other, DEEPEST)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotData(f"not an encoded value: {error}") from error


def dumps(encoded: Any) -> bytes:
    """An encoding as bytes; raises NotData when it is too large."""
    text = frames.written(encoded).encode()
    if len(text) > MOST_BYTES:
        raise NotData(f"the value takes {len(text)} bytes, more than {MOST_BYTES}")
    return text


def loads(text: bytes) -> Any:
    """JSON of untrusted bytes; raises NotData."""
    if len(text) > MOST_BYTES:
        raise NotData(f"the value takes {len(text)} bytes, more than {MOST_BYTES}")
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotData(f"not JSON: {error}") from error


def _encode(value: object, other: Callable[[object], list[Any]] | None, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if depth == 0:
        raise NotData("the value is nested too deeply")
    # The base class's methods: a subclass may do anything in its own.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        if number.bit_length() > _MOST_BITS:
            raise NotData(f"an integer of {number.bit_length()} bits")
        return number if -_EXACT < number < _EXACT else ["i", hex(number)]
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if isinstance(value, complex):
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, bytes | bytearray):
        return ["b", bytes(value).hex()]
    if isinstance(value, dict):
        pairs = dict.items(value)
        return ["d", [[_encode(key, other, depth - 1), _encode(one, other, depth - 1)] for key, one in pairs]]
    if isinstance(value, range):
        return ["r", value.start, value.stop, value.step]
    if (type(value).__module__, type(value).__name__) in _NUMBERS:
        return ["x", type(value).__name__, str(value)[:_MOST_DIGITS]]
    for kind, head in _SEQUENCES.items():
        if isinstance(value, kind):
            return [head, [_encode(one, other, depth - 1) for one in kind.__iter__(value)]]  # type: ignore[attr-defined]
    if other is None:
        raise NotData(f"a {type(value).__name__} is not data")
    return other(value)


def _decode(encoded: Any, other: Callable[[list[Any]], object] | None, depth: int) -> Any:
    if depth == 0:
        raise ValueError("nested too deeply")
    if encoded is None or isinstance(encoded, bool | str | int | float):
        return encoded
    match encoded:
        case ["i", str(digits)]:
            return int(digits, 16)
        case ["f", str(digits)]:
            return float.fromhex(digits)
        case ["c", str(real), str(imaginary)]:
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case ["b", str(digits)]:
            return bytes.fromhex(digits)
        case ["d", list(pairs)]:
            return {_decode(key, other, depth - 1): _decode(one, other, depth - 1) for key, one in pairs}
        case ["r", int(start), int(stop), int(step)]:
            return range(start, stop, step)
        case ["x", str(kind), str(text)] if len(text) <= _MOST_DIGITS:
            return _number(kind, text)
        case [("l" | "t" | "s" | "z") as head, list(items)]:
            values = (_decode(one, other, depth - 1) for one in items)
            return {"l": list, "t": tuple, "s": set, "z": frozenset}[head](values)
        case [str(), *_] if other is not None:
            return other(encoded)
    raise ValueError(f"unknown kind {encoded!r:.60}")


def _number(kind: str, text: str) -> object:
    # Imported when one comes: both take milliseconds.
    if kind == "Fraction":
        from fractions import Fraction

        return Fraction(text)
    from decimal import Decimal, InvalidOperation

    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"no decimal number: {text[:20]!r}") from error
