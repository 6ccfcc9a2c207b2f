"""`route: {by: tag, cases: {value: expression, ...}, default: expression}`: the expression for the sample's tag.

Decided by the tags before any service is asked, so signals of other cases are not called. Without `default`, a sample whose tag
is in no case has no reward (NOT_APPLICABLE), which is not a reward of 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field

from rewardmesh.gateway.program.node import Cause, Column, Member, Missing, Node, Result
from rewardmesh.gateway.program.scales import REMEDY, Scale, either
from rewardmesh.gateway.program.scope import Operator, Scope
from rewardmesh.gateway.program.signals import Strict
from rewardmesh.gateway.program.source import Path
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb


class _Arguments(Strict):
    by: str = Field(min_length=1)
    cases: dict[str, Any] = Field(min_length=1)
    default: Any = None


class Route(Operator):
    """A choice by tag."""

    def __init__(self, tag: str, cases: Mapping[str, Node], default: Node | None, scale: Scale) -> None:
        self.tag = tag
        self.cases = dict(cases)
        self.default = default
        self.scale = scale

    @classmethod
    def build(cls, data: Mapping[str, Any], path: Path, scope: Scope) -> Self:
        here = (*path, "route")
        arguments = scope.arguments(_Arguments, data["route"], here)
        places: list[Path] = [(*here, "cases", value) for value in arguments.cases]
        nodes = [scope.expression(item, place) for item, place in zip(arguments.cases.values(), places, strict=True)]
        cases = dict(zip(arguments.cases, nodes, strict=True))
        default = None
        if arguments.default is not None:
            places.append((*here, "default"))
            default = scope.expression(arguments.default, places[-1])
            nodes.append(default)
        scale = either([node.scale for node in nodes], compared=False)
        if isinstance(scale, int):
            raise scope.error(places[scale], f"a {nodes[scale].scale.name} value cannot stand beside the other cases' scales: {REMEDY}")
        return cls(arguments.by, cases, default, scale)

    def case(self, tags: Mapping[str, str]) -> Node | None:
        """The expression for these tags; None when no case fits."""
        return self.cases.get(tags.get(self.tag, ""), self.default)

    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        node = self.case(tags)
        return node.needs(tags) if node else frozenset()

    def signals(self) -> frozenset[str]:
        nodes = [*self.cases.values(), *([self.default] if self.default else [])]
        return frozenset().union(*(node.signals() for node in nodes))

    def evaluate(self, members: Sequence[Member]) -> Column:
        chosen = [self.case(member.tags) for member in members]
        results: list[Result | None] = [None] * len(members)
        for node in {id(node): node for node in chosen}.values():
            places = [place for place, other in enumerate(chosen) if other is node]
            found = node.evaluate([members[place] for place in places]) if node else [self._unrouted(members[place]) for place in places]
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    def _unrouted(self, member: Member) -> Missing:
        given = f"tag {self.tag!r} is {member.tags[self.tag]!r}" if self.tag in member.tags else f"there is no tag {self.tag!r}"
        return Missing((Cause("", absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"{given}; the program has cases {', '.join(self.cases)}")),))

    def canonical(self) -> Any:
        cases = {value: node.canonical() for value, node in self.cases.items()}
        return {"route": [self.tag, cases, self.default.canonical() if self.default else None]}


OPERATOR = Route
