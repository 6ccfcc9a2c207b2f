"""Findings beside their thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rewardmesh.audit.figures import Spec, Thresholds
from rewardmesh.audit.findings import Findings, Missing, Section


class Measured(Protocol):
    """What a probe of a judge and a check of a verifier have in common."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def meaning(self) -> str: ...
    @property
    def specs(self) -> tuple[Spec, ...]: ...


def section(
    what: Measured,
    findings: Findings,
    asked: int,
    absent: Mapping[str, int],
    details: Mapping[str, str],
    thresholds: Thresholds,
    seconds: float,
) -> Section:
    """A section of the report: every figure of `what`, measured or missing."""
    estimates = [(spec, findings.estimates[spec.name]) for spec in what.specs]
    return Section(
        name=what.name,
        title=what.title,
        meaning=what.meaning,
        figures=tuple(thresholds.figure(spec, found) for spec, found in estimates if not isinstance(found, Missing)),
        missing={spec.name: found.reason for spec, found in estimates if isinstance(found, Missing)},
        asked=asked,
        absent=dict(absent),
        details=dict(details),
        findings=findings,
        seconds=seconds,
    )
