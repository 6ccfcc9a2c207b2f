"""`sum: [term, ...]`: the weighted sum. A term is an expression, or `{of: expression, shape: ..., weight: 0.7}`.

Refuses terms whose scales cannot be added: a raw logit beside anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from rewardmesh.gateway.program.node import Column, Member, Node, Present, Result, fallbacks, missing
from rewardmesh.gateway.program.scales import REMEDY, scaled, sum_of
from rewardmesh.gateway.program.scope import Operator, Scope
from rewardmesh.gateway.program.signals import Strict
from rewardmesh.gateway.program.source import Path


class _Term(Strict):
    of: Any
    shape: Any = None
    weight: float = 1.0


class Sum(Operator):
    """Weighted sum of terms."""

    def __init__(self, terms: Sequence[tuple[Node, float]]) -> None:
        self.terms = tuple(terms)
        scale = sum_of([scaled(node.scale, weight) for node, weight in terms])
        if isinstance(scale, int):
            raise IncompatibleTermError(scale)
        self.scale = scale

    @classmethod
    def build(cls, data: Mapping[str, Any], path: Path, scope: Scope) -> Self:
        here = (*path, "sum")
        items = data["sum"]
        if not isinstance(items, list) or not items:
            raise scope.error(here, "must be a list of at least one term")
        terms = [_term(item, (*here, index), scope) for index, item in enumerate(items)]
        try:
            return cls(terms)
        except IncompatibleTermError as error:
            node = terms[error.index][0]
            raise scope.error((*here, error.index), f"a {node.scale.name} value cannot be added to others: {REMEDY}") from error

    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        return frozenset().union(*(node.needs(tags) for node, _ in self.terms))

    def signals(self) -> frozenset[str]:
        return frozenset().union(*(node.signals() for node, _ in self.terms))

    def evaluate(self, members: Sequence[Member]) -> Column:
        columns = [node.evaluate(members) for node, _ in self.terms]
        return [self._add(row) for row in zip(*columns, strict=True)]

    def _add(self, row: Sequence[Result]) -> Result:
        present = [result for result in row if isinstance(result, Present)]
        if lost := missing(*row):
            return lost
        total = sum(weight * result.value for (_, weight), result in zip(self.terms, present, strict=True))
        return Present(total, fallbacks(*row))

    def canonical(self) -> Any:
        return {"sum": [[node.canonical(), weight] for node, weight in self.terms]}


class IncompatibleTermError(ValueError):
    """The term at `index` cannot be added."""

    def __init__(self, index: int) -> None:
        super().__init__(f"term {index} cannot be added")
        self.index = index


def _term(item: object, path: Path, scope: Scope) -> tuple[Node, float]:
    if not isinstance(item, dict) or "of" not in item:
        return scope.expression(item, path), 1.0
    term = scope.arguments(_Term, item, path)
    if term.shape is None:
        return scope.expression(term.of, (*path, "of")), term.weight
    return scope.expression({"of": term.of, "shape": term.shape}, path), term.weight


OPERATOR = Sum
