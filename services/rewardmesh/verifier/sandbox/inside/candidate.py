"""The code under test, called from afar: the other end of `referee`, in another sandbox, with the server between them.

It answers one request at a time: `call` an object, `get` or `set` an attribute of it, `special` for a method of its type (`__len__`),
`isinstance`. Values travel as data; what is no data stays here, and a handle ["h", id, kind, type name] stands for it. This process never
sees the test script: only the arguments of the calls.
"""

from __future__ import annotations

import builtins
import io
import sys
import types
from typing import Any

from rewardmesh.verifier.sandbox.inside import data, frames, running

MOST_HANDLES = 20_000


def serve(channel: frames.Channel, code: str) -> None:
    """Load the code, tell its names, and answer until the server closes."""
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), _Nowhere(), _Nowhere()
    handles = Handles()
    try:
        names = {name: handles.put(value) for name, value in running.load(code).items() if not name.startswith("__")}
        answer = data.dumps(["d", [[name, value] for name, value in names.items()]])
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is its result
        channel.send({"op": "raised", **running.told(error), "class": None})
        return
    channel.send({"op": "value"}, answer)
    while (frame := channel.receive()) is not None:
        header, blobs = frame
        try:
            channel.send({"op": "value"}, _answer(handles, header, blobs[0]))
        except BaseException as error:  # noqa: BLE001 - whatever the code raises is its answer
            # A class that is no builtin travels as a handle, so that the script can catch it by name.
            own = None if getattr(builtins, type(error).__name__, None) is type(error) else handles.put(type(error))
            channel.send({"op": "raised", **running.told(error), "class": own})


class Handles:
    """Objects that stay here."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def put(self, value: object) -> Any:
        """The encoding of a value, as data or as a handle."""
        return data.encode(value, self._handle)

    def object_of(self, encoded: list[Any]) -> object:
        """The object of a handle that came back."""
        match encoded:
            case ["h", int(number), *_] if 0 <= number < len(self._objects):
                return self._objects[number]
        raise ValueError("unknown handle")

    def _handle(self, value: object) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is None:
            if len(self._objects) >= MOST_HANDLES:
                raise data.NotData(f"more than {MOST_HANDLES} objects that are no data")
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return ["h", number, _kind(value), type(value).__name__[:100]]


def _kind(value: object) -> str:
    """ "module:NAME", "exception:NEAREST BUILTIN:NAME", "class:NAME", "callable" or "object"."""
    if isinstance(value, types.ModuleType):
        return f"module:{value.__name__}"
    if isinstance(value, type):
        if issubclass(value, BaseException):
            base = next(one.__name__ for one in value.__mro__ if getattr(builtins, one.__name__, None) is one)
            return f"exception:{base}:{value.__name__}"
        return f"class:{value.__name__}"
    return "callable" if callable(value) else "object"


def _answer(handles: Handles, header: dict[str, Any], blob: bytes) -> bytes:
    target, arguments, keywords = data.decode(data.loads(blob), handles.object_of)
    match header["do"]:
        case "call":
            before = _contents(arguments)
            value = handles.put(target(*arguments, **keywords))
            # The script's own lists must change as they would have changed in one process.
            changed = [[index, now] for index, (old, now) in enumerate(zip(before, _contents(arguments), strict=True)) if old != now]
            return data.dumps([value, changed])
        case "get":
            return data.dumps([handles.put(getattr(target, *arguments)), []])
        case "set":
            setattr(target, *arguments)
            return data.dumps([None, []])
        case "special":
            method = getattr(type(target), header["name"], None)
            if method is None:
                raise TypeError(f"a {type(target).__name__} has no {header['name']}")
            found = method(target, *arguments)
            if found is NotImplemented:
                raise TypeError(f"a {type(target).__name__} does not support {header['name']} with that operand")
            return data.dumps([handles.put(found), []])
        case "bool":
            return data.dumps([bool(target), []])
        case "isinstance":
            return data.dumps([isinstance(target, *arguments), []])
    raise ValueError(f"unknown request {header['do']!r}")


def _contents(arguments: list[Any]) -> list[Any]:
    """Encodings of those arguments that a call may change; None for all others."""
    found = []
    for argument in arguments:
        try:
            found.append(data.encode(argument) if isinstance(argument, list | dict | set | bytearray) else None)
        except data.NotData:
            found.append(None)
    return found


class _Nowhere(io.TextIOBase):
    """What is printed during a test script is of no use to anybody."""

    def write(self, text: str) -> int:
        return len(text)
