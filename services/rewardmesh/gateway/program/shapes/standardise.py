"""`standardise: group`: (value - mean) / standard deviation over the present values of the sample's group.

The standard deviation is the population's (no Bessel correction), so that the result has exactly unit spread. Equal values give 0; a
group with fewer than two present values gives NOT_APPLICABLE, as its spread is not known.
"""

from __future__ import annotations

from typing import Any, Literal

from rewardmesh.gateway.program.node import Column, Missing, Present
from rewardmesh.gateway.program.scales import STANDARDISED, Scale
from rewardmesh.gateway.program.shapes._base import Shape, statistics


class Standardise(Shape):
    """Mean 0 and standard deviation 1 within the group."""

    over: Literal["group"]

    @classmethod
    def expand(cls, arguments: Any) -> Any:
        return {"over": arguments}

    def scale(self, of: Scale) -> Scale:
        return STANDARDISED

    def apply(self, column: Column) -> Column:
        found = statistics(column, least=2)
        if isinstance(found, Missing):
            return [result if isinstance(result, Missing) else found for result in column]
        mean, deviation = found
        return [
            result if isinstance(result, Missing) else Present((result.value - mean) / deviation if deviation else 0.0, result.fallbacks)
            for result in column
        ]


SHAPE = Standardise
