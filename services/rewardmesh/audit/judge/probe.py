"""What a probe is: figures, and the questions that measure them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rewardmesh.audit.figures import Spec
from rewardmesh.audit.findings import Example, Findings, Missing
from rewardmesh.audit.judge.asking import Asker, Reading
from rewardmesh.audit.judge.data import AuditPair, JudgeData
from rewardmesh.audit.judge.settings import JudgeSettings

Run = Callable[[Asker, JudgeData, JudgeSettings], Awaitable[Findings]]
T = TypeVar("T")
WORST = 5
"""Examples a probe shows."""
LONGEST = 600
"""Code points of a text that an example shows."""


@dataclass(frozen=True)
class Probe:
    """One kind of fault to look for.

    Attributes:
        name: what settings and figures call it.
        title: heading of its section.
        meaning: one or two sentences for the report.
        specs: its figures.
        run: asks the judge.
    """

    name: str
    title: str
    meaning: str
    specs: tuple[Spec, ...]
    run: Run


def nothing(specs: Iterable[Spec], reason: str) -> Findings:
    """Findings of a probe that could not be run."""
    return Findings(0, {spec.name: Missing(reason) for spec in specs})


def answered(pairs: Sequence[AuditPair], *readings: Sequence[Reading | None]) -> list[tuple[AuditPair, tuple[Reading, ...]]]:
    """The pairs that have a verdict in every list, with their readings."""
    found = []
    for index, each in enumerate(pairs):
        verdicts = [verdict for row in readings if (verdict := row[index]) is not None]
        if len(verdicts) == len(readings):
            found.append((each, tuple(verdicts)))
    return found


def example(pair: AuditPair, what: str) -> Example:
    """A pair as an example, its texts cut to a readable length."""
    texts = {"prompt": pair.prompt[-1][1], "a": pair.a.text, "b": pair.b.text}
    return Example(pair.id, what, {name: cut(text) for name, text in texts.items()})


def cut(text: str) -> str:
    """A text of at most `LONGEST` code points."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def worst(items: Iterable[T], how_bad: Callable[[T], float], most: int = WORST) -> list[T]:
    """The worst items, worst first."""
    return sorted(items, key=how_bad, reverse=True)[:most]
