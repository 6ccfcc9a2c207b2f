"""Scales: what kind of number a value is, and which kinds may be added or stand in for each other.

A reward head's output (LOGIT) has no fixed zero and no fixed unit, so its sum with anything else means nothing until it is shaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewardmesh.v1 import common_pb2 as pb

NAMES: Mapping[str, pb.ScaleKind.ValueType] = {
    "logit": pb.SCALE_KIND_LOGIT,
    "probability": pb.SCALE_KIND_PROBABILITY,
    "unit": pb.SCALE_KIND_UNIT,
    "bounded": pb.SCALE_KIND_BOUNDED,
    "log_prob": pb.SCALE_KIND_LOG_PROB,
    "count": pb.SCALE_KIND_COUNT,
    "standardised": pb.SCALE_KIND_STANDARDISED,
}
REMEDY = (
    "shape it ({sigmoid: {centre: group}}, {clip: {min: ..., max: ...}} or {standardise: group}), "
    "or declare `scale:` in its signal when it is known"
)


@dataclass(frozen=True)
class Scale:
    """A kind of number with the interval [min, max] it cannot leave (infinite where there is no bound).

    anchored: whether zero and unit mean something although there are no bounds, as for standardised values and their sums.
    """

    kind: pb.ScaleKind.ValueType
    min: float = -math.inf
    max: float = math.inf
    anchored: bool = False

    @property
    def name(self) -> str:
        """As in YAML, with the bounds of a bounded one."""
        name = next(name for name, kind in NAMES.items() if kind == self.kind)
        return f"{name} [{self.min:g}, {self.max:g}]" if self.kind == pb.SCALE_KIND_BOUNDED else name

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.min) and math.isfinite(self.max)

    @property
    def addable(self) -> bool:
        """Whether a sum with values of other addable scales means something."""
        return self.bounded or self.anchored

    def to_proto(self) -> pb.Scale:
        """The wire form; bounds only where the contract has them."""
        if self.kind == pb.SCALE_KIND_BOUNDED:
            return pb.Scale(kind=self.kind, min=self.min, max=self.max)
        return pb.Scale(kind=self.kind)


LOGIT = Scale(pb.SCALE_KIND_LOGIT)
PROBABILITY = Scale(pb.SCALE_KIND_PROBABILITY, 0.0, 1.0)
UNIT = Scale(pb.SCALE_KIND_UNIT, 0.0, 1.0)
SIGNED = Scale(pb.SCALE_KIND_BOUNDED, -1.0, 1.0)
LOG_PROB = Scale(pb.SCALE_KIND_LOG_PROB, max=0.0)
COUNT = Scale(pb.SCALE_KIND_COUNT, min=0.0)
STANDARDISED = Scale(pb.SCALE_KIND_STANDARDISED, anchored=True)
ANCHORED = Scale(pb.SCALE_KIND_LOGIT, anchored=True)
"""A sum with standardised terms: unbounded, and standardised no more."""
_PLAIN = {"logit": LOGIT, "probability": PROBABILITY, "unit": UNIT, "log_prob": LOG_PROB, "count": COUNT, "standardised": STANDARDISED}


def bounded(low: float, high: float) -> Scale:
    """A score in [low, high]."""
    return Scale(pb.SCALE_KIND_BOUNDED, low, high)


def parse_scale(data: object) -> Scale:
    """Read `unit`, `probability`, ... or `{bounded: {min: 0, max: 5}}`; ValueError says what is wrong."""
    if isinstance(data, Scale):
        return data
    if isinstance(data, str) and data in _PLAIN:
        return _PLAIN[data]
    if isinstance(data, dict) and set(data) == {"bounded"}:
        ends = data["bounded"]
        if isinstance(ends, dict) and set(ends) == {"min", "max"} and all(type(end) in (int, float) for end in ends.values()):
            low, high = float(ends["min"]), float(ends["max"])
            if math.isfinite(low) and math.isfinite(high) and low < high:
                return bounded(low, high)
    raise ValueError(f"must be one of {', '.join(_PLAIN)} or {{bounded: {{min: <number>, max: <greater number>}}}}")


def scaled(scale: Scale, factor: float, offset: float = 0.0) -> Scale:
    """Scale of factor * value + offset."""
    if factor == 1.0 and offset == 0.0:
        return scale
    if scale.bounded:
        ends = (factor * scale.min + offset, factor * scale.max + offset)
        return bounded(min(ends), max(ends))
    if scale.kind == pb.SCALE_KIND_LOG_PROB and factor > 0 and offset == 0:
        return scale
    return ANCHORED if scale.anchored else LOGIT


def sum_of(scales: Sequence[Scale]) -> Scale | int:
    """Scale of a sum of (already weighted) values, or the index of the term that cannot be added."""
    if len(scales) == 1:
        return scales[0]
    if all(scale.kind == pb.SCALE_KIND_LOG_PROB for scale in scales):
        return LOG_PROB
    for index, scale in enumerate(scales):
        if not scale.addable:
            return index
    if all(scale.bounded for scale in scales):
        return bounded(sum(scale.min for scale in scales), sum(scale.max for scale in scales))
    return ANCHORED


def either(scales: Sequence[Scale], *, compared: bool) -> Scale | int:
    """Scale of a value that is one of several, or the index of the one that does not fit.

    compared: whether values of different branches meet in one group, where logits of different models would be compared.
    """
    kinds = {scale.kind for scale in scales}
    raw = pb.SCALE_KIND_LOGIT in kinds and not all(scale.anchored for scale in scales)
    if len(kinds) == 1 and (len(scales) == 1 or not compared or not raw):
        low, high = min(scale.min for scale in scales), max(scale.max for scale in scales)
        return Scale(scales[0].kind, low, high, all(scale.anchored for scale in scales))
    for index, scale in enumerate(scales):
        if not scale.addable:
            return index
    if all(scale.bounded for scale in scales):
        return bounded(min(scale.min for scale in scales), max(scale.max for scale in scales))
    return ANCHORED
