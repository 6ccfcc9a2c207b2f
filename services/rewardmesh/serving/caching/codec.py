"""Results as bytes: compact, typed, checked, and never a pickle, because a shared cache is memory that others can write to."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Protocol, TypeVar

R = TypeVar("R")

_FRAME = struct.Struct("<BBI")  # format version, kind of value, CRC-32 of key and payload
_FORMAT = 1


class CorruptValueError(ValueError):
    """Bytes that are no value of the expected kind."""


class Codec(Protocol[R]):
    """Writes and reads one kind of result.

    Attributes:
        kind: number of the kind, 0 to 255, written before every value in a shared cache.
    """

    kind: int

    def encode(self, value: R) -> bytes | None:
        """The bytes of a value; None for one that must not be kept (NaN, infinity)."""

    def decode(self, data: bytes) -> R:
        """The value again, equal to the bit. Raises CorruptValueError."""


class FloatsCodec:
    """Lists of floats as little-endian float64: what a head computed as float32 comes back equal to the bit."""

    kind = 1

    def encode(self, value: list[float]) -> bytes | None:
        """See `Codec`."""
        return struct.pack(f"<{len(value)}d", *value) if all(map(math.isfinite, value)) else None

    def decode(self, data: bytes) -> list[float]:
        """See `Codec`."""
        if len(data) % 8:
            raise CorruptValueError(f"{len(data)} bytes are no list of float64")
        return list(struct.unpack(f"<{len(data) // 8}d", data))


def frame(key: bytes, kind: int, payload: bytes) -> bytes:
    """A payload as it goes into a shared cache: format, kind and checksum before it. The checksum covers the key too."""
    return _FRAME.pack(_FORMAT, kind, zlib.crc32(payload, zlib.crc32(key))) + payload


def unframe(key: bytes, kind: int, data: object) -> bytes:
    """The payload of a framed value.

    Raises:
        CorruptValueError: other format or kind, damaged, or the value of another key.
    """
    if not isinstance(data, bytes) or len(data) < _FRAME.size:
        raise CorruptValueError("no framed value")
    found_format, found_kind, checksum = _FRAME.unpack_from(data)
    payload = data[_FRAME.size :]
    if (found_format, found_kind) != (_FORMAT, kind):
        raise CorruptValueError(f"format {found_format} of kind {found_kind}, expected format {_FORMAT} of kind {kind}")
    if checksum != zlib.crc32(payload, zlib.crc32(key)):
        raise CorruptValueError("the checksum does not match")
    return payload
