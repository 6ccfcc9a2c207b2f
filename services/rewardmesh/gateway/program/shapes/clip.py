"""`clip: {min: -5, max: 5}`: the value, held inside [min, max]."""

from __future__ import annotations

from pydantic import Field, model_validator

from rewardmesh.gateway.program.node import Column, Missing, Present
from rewardmesh.gateway.program.scales import Scale, bounded
from rewardmesh.gateway.program.shapes._base import Shape


class Clip(Shape):
    """Bounds a value."""

    least: float = Field(alias="min")
    most: float = Field(alias="max")

    @model_validator(mode="after")
    def _ordered(self) -> Clip:
        if self.least >= self.most:
            raise ValueError(f"min must be less than max, are {self.least} and {self.most}")
        return self

    def scale(self, of: Scale) -> Scale:
        return bounded(*(min(max(end, self.least), self.most) for end in (of.min, of.max)))

    def apply(self, column: Column) -> Column:
        return [
            result if isinstance(result, Missing) else Present(min(max(result.value, self.least), self.most), result.fallbacks)
            for result in column
        ]


SHAPE = Clip
