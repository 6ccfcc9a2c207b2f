"""An audit: sections about one subject, and whether it passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rewardmesh.audit.figures import Figure
from rewardmesh.audit.findings import Section


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        kind: of the service audited.
        subject: what identifies it, by name: for a judge model, version, template and fingerprint.
        data: what it was audited on, for people.
        settings: what it was audited with, by name.
        required: figures that must have been measured.
        complete: False when it was interrupted: then it cannot pass.
        created: ISO 8601, UTC.
    """

    kind: Literal["judge", "verifier"]
    subject: Mapping[str, str]
    data: str
    settings: Mapping[str, str]
    sections: tuple[Section, ...]
    required: frozenset[str]
    complete: bool
    created: str

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All that were measured."""
        return tuple(figure for section in self.sections for figure in section.figures)

    @property
    def missing(self) -> dict[str, str]:
        """Figures that were not measured, and why."""
        return {name: reason for section in self.sections for name, reason in section.missing.items()}

    @property
    def absent(self) -> Counter[str]:
        """Items without a verdict, by reason, all sections together."""
        total: Counter[str] = Counter()
        for section in self.sections:
            total.update(section.absent)
        return total

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it did not pass, one sentence each; empty when it did."""
        found = [] if self.complete else ["the audit was interrupted"]
        judged = [figure for figure in self.figures if figure.met is not None]
        if not judged:
            found.append("no figure with a threshold could be measured")
        found += [f"{figure.name} is {figure.value:.4g}, its threshold {figure.threshold:.4g}" for figure in judged if not figure.met]
        found += [f"{name} has a threshold of its own and was not measured: {self.missing[name]}" for name in self._unmeasured()]
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether it ran to its end and all measured figures meet their thresholds."""
        return not self.failures

    def figure(self, name: str) -> Figure:
        """A measured figure.

        Raises:
            KeyError: it was not measured; says why.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"{name}: {self.missing.get(name, 'no such figure')}")

    def _unmeasured(self) -> list[str]:
        return sorted(self.required & set(self.missing))
