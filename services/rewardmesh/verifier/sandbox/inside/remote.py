"""What a test script holds in place of the code under test: stand-ins that ask its sandbox, and take nothing from it but data.

An object of the other side is compared here, never there: it equals itself and no data, and whether two of them are equal cannot be told
without trusting the code under test (NotApplicable). Neither can `in`, nor arithmetic that gives data: `abs(f(2) - 4) < 1e-6` would let
that code see 4 and give 0. Everything else is asked over there: its answer is only an output.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable
from typing import Any

from rewardmesh.verifier.sandbox.inside import data

Ask = Callable[[str, Any, str], tuple[dict[str, Any], bytes]]
"""(do, encoding of [target, arguments, keywords], name of a special method) -> the answer's header and blob."""


class NotApplicable(BaseException):
    """The script needs something that cannot be done from afar. No Exception: the script must not catch it."""


class Remote:
    """The other side, seen from the script."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._classes: dict[int, type[BaseException]] = {}
        self.calls = 0
        self.refused = ""
        """Why the script cannot be run from afar; empty while it can."""

    def ask(self, do: str, target: Any, arguments: list[Any], keywords: dict[str, Any] | None = None, name: str = "") -> Any:
        """One request; raises what the other side raised."""
        self.calls += 1
        try:
            encoded = data.encode([target, arguments, keywords or {}], _handle_of)
            data.dumps(encoded)
        except data.NotData as error:
            raise self.refuse(f"an argument cannot be passed to the code under test: {error}") from error
        header, blob = self._ask(do, encoded, name)
        if header["op"] == "raised":
            raise self._exception(header)
        try:
            value, changed = data.loads(blob)
            for index, contents in changed:
                _become(arguments[index], self.decode(contents))
            return self.decode(value)
        except (data.NotData, ValueError, TypeError, IndexError) as error:
            raise RuntimeError(f"the code under test answered with what is no value: {error}") from error

    def decode(self, encoded: Any) -> Any:
        """A value of the other side."""
        return data.decode(encoded, self._stand_in)

    def refuse(self, why: str) -> NotApplicable:
        """Note why, for an exception may be lost in a `finally`."""
        self.refused = self.refused or why
        return NotApplicable(why)

    def _stand_in(self, encoded: list[Any]) -> Any:
        match encoded:
            case ["h", int(number), str(kind), str(type_name)]:
                head, _, rest = kind.partition(":")
                if head == "module" and rest.split(".")[0] in sys.stdlib_module_names:
                    return importlib.import_module(rest)
                if head == "exception":
                    return self._exception_class(number, rest)
                return StandIn(self, number, kind, type_name)
        raise ValueError("not a handle")

    def _exception_class(self, number: int, rest: str) -> type[BaseException]:
        if number not in self._classes:
            base_name, _, name = rest.partition(":")
            base = getattr(builtins, base_name, Exception)
            # SystemExit and its like must not end the script.
            base = base if isinstance(base, type) and issubclass(base, Exception) else Exception
            self._classes[number] = type(name, (base,), {})
        return self._classes[number]

    def _exception(self, header: dict[str, Any]) -> BaseException:
        own = self.decode(header.get("class"))
        kind = own if isinstance(own, type) else getattr(builtins, str(header.get("error")), None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = RuntimeError
        error = kind.__new__(kind)
        error.args = (str(header.get("message")),)
        error.__dict__["from_candidate"] = header.get("line", 0)
        return error


class StandIn:
    """An object of the code under test."""

    __slots__ = ("_kind", "_number", "_remote", "_type_name")

    def __init__(self, remote: Remote, number: int, kind: str, type_name: str) -> None:
        for name, value in (("_remote", remote), ("_number", number), ("_kind", kind), ("_type_name", type_name)):
            object.__setattr__(self, name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._remote.ask("call", self, list(arguments), keywords)

    def __getattr__(self, name: str) -> Any:
        return self._remote.ask("get", self, [name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote.ask("set", self, [name, value])

    def __instancecheck__(self, one: object) -> bool:
        # isinstance(x, Stack): the class is a stand-in, too. Data of this side is of none of its classes.
        return isinstance(one, StandIn) and bool(self._remote.ask("isinstance", one, [self]))

    def __bool__(self) -> bool:
        return bool(self._remote.ask("bool", self, []))

    def __hash__(self) -> int:
        return hash((StandIn, self._number))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StandIn):
            if other._number == self._number:
                return True
            raise self._remote.refuse("the script compares two objects of the code under test, whose own __eq__ would decide")
        if is_data(other):
            return False
        raise self._remote.refuse(f"the script compares an object of the code under test with a {type(other).__name__}")

    def __contains__(self, item: object) -> bool:
        raise self._remote.refuse("the script looks for something in an object of the code under test, whose own __contains__ would decide")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _order(self, other: object) -> bool:
        if is_data(other):
            raise TypeError(f"a {self._type_name} of the code under test has no order with data")
        raise self._remote.refuse("the script orders objects of the code under test, whose own methods would decide")

    __lt__ = __le__ = __gt__ = __ge__ = _order


def is_data(value: object) -> bool:
    """Whether a value is data, all through."""
    try:
        data.encode(value)
    except data.NotData:
        return False
    return True


def _handle_of(value: object) -> list[Any]:
    if isinstance(value, StandIn):
        return ["h", value._number]
    raise data.NotData(f"a {type(value).__name__} is no data")


def _become(argument: Any, contents: Any) -> None:
    """Give a container of the script what the call has made of it."""
    if type(argument) is not type(contents):
        raise TypeError(f"a {type(argument).__name__} cannot become a {type(contents).__name__}")
    if isinstance(argument, list):
        argument[:] = contents
    else:
        argument.clear()
        argument.update(contents)


def _special(name: str) -> Callable[..., Any]:
    def method(self: StandIn, *arguments: Any) -> Any:
        return self._remote.ask("special", self, list(arguments), name=name)

    method.__name__ = name
    return method


def _binary(name: str) -> Callable[..., Any]:
    def method(self: StandIn, other: Any) -> Any:
        found = self._remote.ask("special", self, [other], name=name)
        if not isinstance(found, StandIn):
            raise self._remote.refuse(f"the script computes with an object of the code under test, whose own {name} would decide")
        return found

    method.__name__ = name
    return method


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift", "divmod")
for _name in (
    *("len", "iter", "next", "getitem", "setitem", "delitem", "reversed", "str", "repr", "format", "int", "float", "index"),
    *("neg", "pos", "abs", "invert", "round", "enter", "exit"),
):
    setattr(StandIn, f"__{_name}__", _special(f"__{_name}__"))
for _name in (*_ARITHMETIC, *(f"r{name}" for name in _ARITHMETIC)):
    setattr(StandIn, f"__{_name}__", _binary(f"__{_name}__"))
