"""Reads expressions: what an operator's file gets to turn its part of the YAML into a node."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ValidationError

from rewardmesh.gateway.program.leaves import Constant, SignalValue
from rewardmesh.gateway.program.node import Node
from rewardmesh.gateway.program.registry import discover
from rewardmesh.gateway.program.signals import Signal
from rewardmesh.gateway.program.source import Path, ProgramError, Source

A = TypeVar("A", bound=BaseModel)


class Operator(Node):
    """A node written `{<file name>: arguments}`; `companions` are the other keys that its mapping may hold."""

    companions: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @abstractmethod
    def build(cls, data: Mapping[str, Any], path: Path, scope: Scope) -> Self:
        """Read the whole mapping at `path`; mistakes are raised as `scope.error(path, message)`."""


@cache
def operators() -> dict[str, type[Operator]]:
    """All operators by name."""
    return discover("rewardmesh.gateway.program.operators", "OPERATOR")


@dataclass(frozen=True)
class Scope:
    """What expressions can refer to.

    Attributes:
        source: the text, for the place of a mistake.
        leaves: a node for every signal.
        signals: the signals by name.
        baselines: stored baseline of a signal, by the signal's name.
    """

    source: Source
    signals: Mapping[str, Signal]
    leaves: Mapping[str, SignalValue]
    baselines: Mapping[str, float] = field(default_factory=dict)

    def error(self, path: Path, message: str) -> ProgramError:
        """A mistake at a path."""
        return self.source.error(path, message)

    def expression(self, data: object, path: Path) -> Node:
        """Read a number, a signal's name or an operator."""
        if isinstance(data, str):
            if data not in self.leaves:
                raise self.error(path, f"unknown signal {data!r} (known: {', '.join(sorted(self.leaves))})")
            return self.leaves[data]
        if isinstance(data, bool) or not isinstance(data, (int, float, dict)):
            raise self.error(path, f"must be a number, a signal's name or an operator ({', '.join(operators())}), is {_kind(data)}")
        if not isinstance(data, dict):
            try:
                return Constant(float(data))
            except (ValueError, OverflowError) as error:
                raise self.error(path, f"must be a finite number: {error}") from error
        names = [name for name in operators() if name in data]
        if len(names) != 1:
            found = ", ".join(map(repr, data)) or "nothing"
            raise self.error(path, f"must hold exactly one operator, holds {found} (known: {', '.join(operators())})")
        operator = operators()[names[0]]
        for key in data:
            if key not in {names[0], *operator.companions}:
                raise self.error((*path, key), f"unknown field beside {names[0]!r}")
        return operator.build(data, path, self)

    def arguments(self, model: type[A], data: object, path: Path) -> A:
        """Check plain values against a typed model."""
        return validate(model, data, path, self.source)


def validate(model: type[A], data: object, path: Path, source: Source) -> A:
    """Check plain values against a typed model; the first mistake is raised as ProgramError at its own path."""
    if not isinstance(data, dict):
        raise source.error(path, f"must be a mapping, is {_kind(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        item = error.errors(include_url=False, include_context=False)[0]
        where = (*path, *item["loc"])
        message = "is required" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = sorted(info.alias or name for name, info in model.model_fields.items())
            message = f"unknown field (known: {', '.join(known)})"
        elif item["type"] not in {"missing", "value_error"}:
            message = f"{message}, is {_kind(item['input'])}"
        raise source.error(where, message) from error


def _kind(data: object) -> str:
    if data is None:
        return "empty"
    if isinstance(data, (dict, list)):
        return {dict: "a mapping", list: "a list"}[type(data)]
    return repr(data)[:80]
