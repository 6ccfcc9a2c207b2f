"""`linear: {scale: 1, offset: 0}`: scale * value + offset."""

from __future__ import annotations

from pydantic import Field

from rewardmesh.gateway.program.node import Column, Missing, Present
from rewardmesh.gateway.program.scales import Scale, scaled
from rewardmesh.gateway.program.shapes._base import Shape


class Linear(Shape):
    """Scales and shifts a value. What had no bounds has none afterwards."""

    factor: float = Field(1.0, alias="scale")
    offset: float = 0.0

    def scale(self, of: Scale) -> Scale:
        return scaled(of, self.factor, self.offset)

    def apply(self, column: Column) -> Column:
        return [
            result if isinstance(result, Missing) else Present(self.factor * result.value + self.offset, result.fallbacks)
            for result in column
        ]


SHAPE = Linear
