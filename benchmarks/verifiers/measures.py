"""How well verdicts agree with labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Agreement:
    """Of verdicts with labels. PASS says right, everything else says wrong; absences say nothing."""

    examples: int
    right: int
    passed: int
    right_and_passed: int
    agreed: int
    absent: int

    @classmethod
    def count(cls, pairs: Iterable[tuple[bool, float | None]]) -> Agreement:
        """Of pairs (whether it is right, score or None)."""
        listed = list(pairs)
        told = [(right, score == 1) for right, score in listed if score is not None]
        counts = Counter(told)
        return cls(
            examples=len(listed),
            right=sum(right for right, _ in listed),
            passed=counts[True, True] + counts[False, True],
            right_and_passed=counts[True, True],
            agreed=counts[True, True] + counts[False, False],
            absent=len(listed) - len(told),
        )

    @property
    def share(self) -> float:
        """Agreed, of all examples: an absence agrees with nothing."""
        return self.agreed / self.examples if self.examples else 0.0

    @property
    def precision(self) -> float | None:
        """Of what passed, the share that is right."""
        return self.right_and_passed / self.passed if self.passed else None

    @property
    def recall(self) -> float | None:
        """Of what is right, the share that passed."""
        return self.right_and_passed / self.right if self.right else None

    def record(self) -> dict[str, Any]:
        """As the report keeps it."""
        return {**asdict(self), "share": self.share, "precision": self.precision, "recall": self.recall}
