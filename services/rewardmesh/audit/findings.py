"""What a probe found: estimates, tables, examples and the data of its plots. No drawing happens here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rewardmesh.audit.figures import Estimate, Figure


@dataclass(frozen=True)
class Missing:
    """Why a figure could not be measured."""

    reason: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Example:
    """One item worth reading: its id, what happened, and texts by name."""

    id: str
    what: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Points:
    """Items as points, with a fitted line (two points) and groups told apart by colour."""

    name: str
    title: str
    x_label: str
    y_label: str
    groups: Mapping[str, tuple[tuple[float, float], ...]]
    line: tuple[tuple[float, float], tuple[float, float]] | None = None
    line_label: str = ""
    diagonal: bool = False
    """Whether to draw y = x: readings on both axes that ought to be equal."""


@dataclass(frozen=True)
class Bars:
    """Values by label, with intervals where they are known and perhaps a threshold."""

    name: str
    title: str
    x_label: str
    bars: tuple[tuple[str, float, float | None, float | None], ...]
    """(label, value, low, high)"""
    threshold: float | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts of a value."""

    name: str
    title: str
    x_label: str
    values: tuple[float, ...]
    marks: Mapping[str, float] = field(default_factory=dict)
    """Vertical lines by label."""


@dataclass(frozen=True)
class Reliability:
    """Stated against observed frequency, with counts: bins of (stated, observed, low, high, n)."""

    name: str
    title: str
    bins: tuple[tuple[float, float, float, float, int], ...]


@dataclass(frozen=True)
class Matrix:
    """Counts by row and column."""

    name: str
    title: str
    x_label: str
    y_label: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


Plot = Points | Bars | Histogram | Reliability | Matrix


@dataclass(frozen=True)
class Findings:
    """What one probe found.

    Attributes:
        n: items with a verdict that it rests on.
        estimates: by name of the figure; every figure of the probe is there, measured or missing.
        notes: sentences for the report.
    """

    n: int
    estimates: Mapping[str, Estimate | Missing]
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    examples: tuple[Example, ...] = ()
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True)
class Section:
    """The findings of one probe beside their thresholds.

    Attributes:
        asked: items put to the service for it.
        absent: those without a verdict, by reason.
        details: what the absences said, the first of each reason.
        missing: figures that were not measured, and why.
    """

    name: str
    title: str
    meaning: str
    figures: tuple[Figure, ...]
    missing: Mapping[str, str]
    asked: int
    absent: Mapping[str, int]
    details: Mapping[str, str]
    findings: Findings
    seconds: float
