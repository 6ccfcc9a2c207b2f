"""`{of: expression, shape: {sigmoid: {...}}}`: puts a value on another scale. The shapes are the files of `program/shapes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Self

from rewardmesh.gateway.program.node import Column, Member, Node
from rewardmesh.gateway.program.registry import discover
from rewardmesh.gateway.program.scope import Operator, Scope
from rewardmesh.gateway.program.shapes import Shape
from rewardmesh.gateway.program.source import Path


@cache
def shapes() -> dict[str, type[Shape]]:
    """All shapes by name."""
    return discover("rewardmesh.gateway.program.shapes", "SHAPE")


class Shaped(Operator):
    """A shape of an expression."""

    companions: ClassVar[frozenset[str]] = frozenset({"of"})

    def __init__(self, of: Node, name: str, shape: Shape) -> None:
        self.of = of
        self.name = name
        self.shape = shape
        self.scale = shape.scale(of.scale)

    @classmethod
    def build(cls, data: Mapping[str, Any], path: Path, scope: Scope) -> Self:
        here = (*path, "shape")
        if "of" not in data:
            raise scope.error((*path, "of"), "is required beside `shape`")
        of = scope.expression(data["of"], (*path, "of"))
        given = data["shape"]
        if isinstance(given, str):
            given = {given: {}}
        if not isinstance(given, dict) or len(given) != 1:
            raise scope.error(here, f"must be one shape: {', '.join(shapes())}")
        name, arguments = next(iter(given.items()))
        if name not in shapes():
            raise scope.error(here, f"unknown shape {name!r} (known: {', '.join(shapes())})")
        kind = shapes()[name]
        shape = scope.arguments(kind, kind.expand(arguments), (*here, name))
        if getattr(shape, "centre", None) == "baseline":
            shape = shape.model_copy(update={"centre": _baseline(data["of"], (*here, name, "centre"), scope)})
        return cls(of, name, shape)

    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        return self.of.needs(tags)

    def signals(self) -> frozenset[str]:
        return self.of.signals()

    def evaluate(self, members: Sequence[Member]) -> Column:
        return self.shape.apply(self.of.evaluate(members))

    def canonical(self) -> Any:
        return {"shape": [self.of.canonical(), self.name, self.shape.model_dump()]}


def _baseline(of: object, path: Path, scope: Scope) -> float:
    if not isinstance(of, str):
        raise scope.error(path, "a baseline belongs to a signal: `of` must be a signal's name, or give a number or `group`")
    if of not in scope.baselines:
        raise scope.error(
            path,
            f"no baseline of signal {of!r} is stored: give the gateway one (`baselines`, keyed program/signal), "
            "or centre on a number or on `group`",
        )
    return scope.baselines[of]


OPERATOR = Shaped
