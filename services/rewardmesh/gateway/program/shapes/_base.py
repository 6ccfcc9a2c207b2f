"""What shapes share: their arguments are their fields; some centre on the group's mean."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rewardmesh.gateway.program.node import Cause, Column, Missing, Present, Result
from rewardmesh.gateway.program.scales import Scale
from rewardmesh.gateway.program.signals import Strict
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb


class Shape(Strict):
    """A function on a column of values. Missing values stay missing."""

    @classmethod
    def expand(cls, arguments: Any) -> Any:
        """Turn a short form of the arguments into a mapping."""
        return {} if arguments is None else arguments

    @abstractmethod
    def scale(self, of: Scale) -> Scale:
        """Scale of the result, given the argument's."""

    @abstractmethod
    def apply(self, column: Column) -> Column:
        """The shaped values of a group, in order."""


def _centre(data: object) -> object:
    if data in ("group", "baseline") or (type(data) in (int, float) and math.isfinite(float(str(data)))):
        return data
    raise ValueError(f"must be a number, group or baseline, is {data!r}")


Centre = Annotated[float | Literal["group", "baseline"], BeforeValidator(_centre)]


class Centred(Shape):
    """A function of (value - centre) / scale. Centre `group` is the mean of the group's present values (fallbacks do not count)."""

    centre: Centre = 0.0
    unit: float = Field(1.0, gt=0, alias="scale")
    """Difference from the centre that counts as 1."""

    @abstractmethod
    def of(self, z: float) -> float:
        """The function of one standardised value."""

    def apply(self, column: Column) -> Column:
        if not isinstance(self.centre, str):
            return [self._map(result, self.centre) for result in column]
        found = statistics(column, least=1)
        if isinstance(found, Missing):
            return [result if isinstance(result, Missing) else found for result in column]
        return [self._map(result, found[0]) for result in column]

    def _map(self, result: Result, centre: float) -> Result:
        if isinstance(result, Missing):
            return result
        return Present(self.of((result.value - centre) / self.unit), result.fallbacks)


def statistics(column: Sequence[Result], *, least: int) -> tuple[float, float] | Missing:
    """Mean and population standard deviation of a group's present values; fallbacks do not count.

    Missing when a value may still come, or when fewer than `least` are present.
    """
    causes = [cause for result in column if isinstance(result, Missing) for cause in result.causes]
    waiting = tuple(Cause(cause.signal, cause.absence, own=False) for cause in causes if cause.pending)
    if waiting:
        return Missing(waiting)
    values = [result.value for result in column if isinstance(result, Present) and not result.fallbacks]
    if len(values) < least:
        detail = f"the group has {len(values)} present values, its statistics need {least}"
        return Missing(
            tuple(
                Cause(cause.signal, absence(pb.ABSENCE_REASON_NOT_APPLICABLE, detail, retryable=cause.absence.retryable), own=False)
                for cause in causes
            )
            or (Cause("", absence(pb.ABSENCE_REASON_NOT_APPLICABLE, detail)),)
        )
    mean = sum(values) / len(values)
    # Rounding must not make a spread out of equal values.
    deviation = 0.0 if min(values) == max(values) else math.sqrt(sum((value - mean) * (value - mean) for value in values) / len(values))
    return mean, deviation
