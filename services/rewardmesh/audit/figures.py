"""Figures: one number each, with its interval, the threshold it has to meet and whether it does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from rewardmesh.audit.errors import AuditError

Better = Literal["lower", "higher", "zero"]
"""lower: at most the threshold; higher: at least; zero: at most the threshold in absolute value."""


@dataclass(frozen=True)
class Spec:
    """A figure that can be measured.

    Attributes:
        name: "probe.figure", unique within an audit.
        unit: "" for a share or a probability.
        better: which way the threshold is met.
        threshold: the default; None for a figure that is only reported.
        meaning: one sentence.
    """

    name: str
    unit: str
    better: Better
    threshold: float | None
    meaning: str


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval, and the items that it rests on; no interval where the value is exact."""

    value: float
    low: float | None
    high: float | None
    n: int

    def times(self, factor: float) -> Estimate:
        """The same in another unit; the factor is positive."""
        low, high = (None if bound is None else bound * factor for bound in (self.low, self.high))
        return Estimate(self.value * factor, low, high, self.n)


@dataclass(frozen=True)
class Figure:
    """An estimate beside its threshold."""

    spec: Spec
    estimate: Estimate
    threshold: float | None

    @property
    def name(self) -> str:
        """As in its specification."""
        return self.spec.name

    @property
    def value(self) -> float:
        """The point estimate, which the threshold is compared with."""
        return self.estimate.value

    @property
    def met(self) -> bool | None:
        """Whether the value meets the threshold; None without one."""
        if self.threshold is None:
            return None
        if self.spec.better == "higher":
            return self.value >= self.threshold
        return (abs(self.value) if self.spec.better == "zero" else self.value) <= self.threshold


class Thresholds:
    """The default thresholds of an audit, and those that its user wants instead.

    Args:
        specs: all figures of the audit.
        wanted: name of a figure -> threshold.

    Raises:
        AuditError: a name that is no figure of this audit, a threshold that is not finite.
    """

    def __init__(self, specs: Iterable[Spec], wanted: Mapping[str, float]) -> None:
        known = {spec.name: spec.threshold for spec in specs}
        if unknown := sorted(set(wanted) - set(known)):
            raise AuditError(f"threshold: {unknown[0]!r} is no figure of this audit; known: {', '.join(sorted(known))}")
        for name, value in wanted.items():
            if not math.isfinite(value):
                raise AuditError(f"threshold: {name}: {value:g} is no limit; give a finite number")
        self._values: Mapping[str, float | None] = {**known, **wanted}
        self.required = frozenset(wanted)
        """Figures that must be measured: someone asked for them by name."""

    def figure(self, spec: Spec, estimate: Estimate) -> Figure:
        """The estimate with its threshold."""
        return Figure(spec, estimate, self._values[spec.name])
