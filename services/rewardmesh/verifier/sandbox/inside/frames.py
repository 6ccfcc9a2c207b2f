"""Frames between server and sandbox: a header, and blobs whose lengths stand in it under "blobs".

4 bytes little-endian: length of the header; the header; the blobs. The server's headers are marshalled, which only it may send; the
sandbox's are JSON, which is safe to read from anybody. Inside, importing `json` would be a third of what a start costs: hence `written`.
"""

from __future__ import annotations

import marshal
import os
import select
from _json import encode_basestring_ascii

TYPE_CHECKING = False  # typing's own would have to be imported, which costs more than all else here
if TYPE_CHECKING:
    from typing import Any

SIZE_BYTES = 4
LARGEST_HEADER = 2**23
LARGEST_BODY = 2**27
_MARSHAL_VERSION = 4
"""The newest that all interpreters from 3.11 on read."""


def pack(header: dict[str, Any], *blobs: bytes) -> bytes:
    """A frame of the server's."""
    return _joined(marshal.dumps({**header, "blobs": [len(blob) for blob in blobs]}, _MARSHAL_VERSION), blobs)


def header_of(head: bytes) -> tuple[dict[str, Any], list[int]]:
    """A header of the sandbox's and the lengths of its blobs; raises ValueError for what is none, whoever wrote it."""
    import json

    try:
        header = json.loads(head)
    except RecursionError as error:
        raise ValueError("a header that is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    sizes = header.pop("blobs", None)
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) > LARGEST_BODY:
        raise ValueError("a header with wrong lengths")
    return header, sizes


def written(value: Any) -> str:
    """JSON of None, booleans, numbers, strings, and lists and dicts of those; raises TypeError for everything else."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is str:
        return encode_basestring_ascii(value)
    if type(value) is int or type(value) is float:
        return repr(value)
    if type(value) is list:
        return f"[{','.join(map(written, value))}]"
    if type(value) is dict:
        return f"{{{','.join([f'{encode_basestring_ascii(key)}:{written(one)}' for key, one in value.items()])}}}"
    raise TypeError(f"a {type(value).__name__} in a frame")


def _wait(number: int, event: int) -> None:
    poll = select.poll()
    poll.register(number, event)
    poll.poll()


def _joined(head: bytes, blobs: tuple[bytes, ...]) -> bytes:
    return b"".join([len(head).to_bytes(SIZE_BYTES, "little"), head, *blobs])


class Channel:
    """Blocking frames over two file descriptors: the side inside."""

    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = source, sink

    def receive(self) -> tuple[dict[str, Any], list[bytes]] | None:
        """The next frame; None when the server has closed."""
        size = self._read(SIZE_BYTES)
        if size is None:
            return None
        header: dict[str, Any] = marshal.loads(self._read(int.from_bytes(size, "little")) or b"")
        return header, [self._read(length) or b"" for length in header.pop("blobs")]

    def send(self, header: dict[str, Any], *blobs: bytes) -> None:
        """Send a frame."""
        rest = memoryview(_joined(written({**header, "blobs": [len(blob) for blob in blobs]}).encode(), blobs))
        while rest:
            try:
                rest = rest[os.write(self.sink, rest) :]
            except BlockingIOError:
                # gVisor makes the descriptors of its host non-blocking.
                _wait(self.sink, select.POLLOUT)

    def _read(self, length: int) -> bytes | None:
        parts = []
        while length:
            try:
                part = os.read(self.source, min(length, 2**20))
            except BlockingIOError:
                _wait(self.source, select.POLLIN)
                continue
            if not part:
                return None
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
