"""`gate: {if: expression, then: expression, else: expression, at_least: 0.5}`: `then` when the condition reaches `at_least`.

An absence in the branch that is not taken is harmless; an absent condition takes no branch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field

from rewardmesh.gateway.program.node import Cause, Column, Member, Missing, Node, Present, Result, fallbacks
from rewardmesh.gateway.program.scales import REMEDY, Scale, either
from rewardmesh.gateway.program.scope import Operator, Scope
from rewardmesh.gateway.program.signals import Strict
from rewardmesh.gateway.program.source import Path
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb


class _Arguments(Strict):
    condition: Any = Field(alias="if")
    then: Any
    otherwise: Any = Field(alias="else")
    at_least: float | None = None


class Gate(Operator):
    """A choice by threshold."""

    def __init__(self, condition: Node, then: Node, otherwise: Node, at_least: float, scale: Scale) -> None:
        self.condition = condition
        self.then = then
        self.otherwise = otherwise
        self.at_least = at_least
        self.scale = scale

    @classmethod
    def build(cls, data: Mapping[str, Any], path: Path, scope: Scope) -> Self:
        here = (*path, "gate")
        arguments = scope.arguments(_Arguments, data["gate"], here)
        condition = scope.expression(arguments.condition, (*here, "if"))
        then = scope.expression(arguments.then, (*here, "then"))
        otherwise = scope.expression(arguments.otherwise, (*here, "else"))
        at_least = arguments.at_least
        if at_least is None:
            if condition.scale.kind not in (pb.SCALE_KIND_UNIT, pb.SCALE_KIND_PROBABILITY):
                raise scope.error((*here, "at_least"), f"is required: a {condition.scale.name} condition has no natural threshold")
            at_least = 0.5
        scale = either([then.scale, otherwise.scale], compared=True)
        if isinstance(scale, int):
            other = (then, otherwise)[1 - scale].scale.name
            name = (then, otherwise)[scale].scale.name
            raise scope.error((*here, ("then", "else")[scale]), f"a {name} value cannot stand beside the other branch's {other}: {REMEDY}")
        return cls(condition, then, otherwise, at_least, scale)

    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        return self.condition.needs(tags) | self.then.needs(tags) | self.otherwise.needs(tags)

    def signals(self) -> frozenset[str]:
        return self.condition.signals() | self.then.signals() | self.otherwise.signals()

    def evaluate(self, members: Sequence[Member]) -> Column:
        columns = (self.condition.evaluate(members), self.then.evaluate(members), self.otherwise.evaluate(members))
        return [self._choose(*row) for row in zip(*columns, strict=True)]

    def _choose(self, condition: Result, then: Result, otherwise: Result) -> Result:
        if isinstance(condition, Missing):
            return condition
        if math.isnan(condition.value):  # would compare as false and so silently take a branch
            return Missing((Cause("", absence(pb.ABSENCE_REASON_NON_FINITE, "the condition of a gate is not a number")),))
        taken = then if condition.value >= self.at_least else otherwise
        if isinstance(taken, Missing):
            return taken
        return Present(taken.value, fallbacks(condition, taken))

    def canonical(self) -> Any:
        return {"gate": [self.condition.canonical(), self.at_least, self.then.canonical(), self.otherwise.canonical()]}


OPERATOR = Gate
