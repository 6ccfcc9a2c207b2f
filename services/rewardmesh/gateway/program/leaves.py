"""The leaves of an expression: a signal's value and a constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.gateway.program.absence import Rule
from rewardmesh.gateway.program.node import PENDING, Cause, Column, Member, Missing, Node, Present, Result
from rewardmesh.gateway.program.scales import Scale, bounded
from rewardmesh.v1 import mesh_service_pb2 as mesh


class SignalValue(Node):
    """The value of a signal, or its fallback where the program declares one."""

    def __init__(self, name: str, scale: Scale, rule: Rule) -> None:
        self.name = name
        self.scale = scale
        self.rule = rule

    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        return frozenset({self.name})

    def signals(self) -> frozenset[str]:
        return frozenset({self.name})

    def evaluate(self, members: Sequence[Member]) -> Column:
        return [self._one(member) for member in members]

    def _one(self, member: Member) -> Result:
        value = member.values[self.name]
        if isinstance(value, (int, float)):
            return Present(value)
        if value is not PENDING and self.rule.policy == mesh.ABSENCE_POLICY_FALLBACK and self.rule.fallback is not None:
            return Present(self.rule.fallback, frozenset({self.name}))
        return Missing((Cause(self.name, value),))

    def canonical(self) -> Any:
        return {"signal": self.name}


class Constant(Node):
    """A number."""

    def __init__(self, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        self.value = value
        self.scale = bounded(value, value)

    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        return frozenset()

    def signals(self) -> frozenset[str]:
        return frozenset()

    def evaluate(self, members: Sequence[Member]) -> Column:
        return [Present(self.value) for _ in members]

    def canonical(self) -> Any:
        return self.value
