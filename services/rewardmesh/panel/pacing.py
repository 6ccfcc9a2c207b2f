"""When a cascade may spend, and when it must: a budget over a window of items, and a watch on how often two judges agree.

Pacing over a stream after the idea of budgeted bidding (Cai et al. 2017, arXiv 1701.02490), without its learnt policy: a bucket that every
item fills by its share and every escalation empties by one, so that no window of items can spend more than twice its share.
"""

from __future__ import annotations

from collections import deque

from pydantic import Field, model_validator

from rewardmesh.panel.spec import Strict


class Budget(Strict):
    """How many items may go on."""

    share: float = Field(gt=0, le=1, description="share of all items that may go on")
    window: int = Field(1000, ge=1, description="items over which spending may be uneven: a quiet stretch saves at most share * window")


class Drift(Strict):
    """When a cheap judge is no longer trusted, and when again."""

    below: float = Field(ge=0, le=1, description="agreement on audited items below which everything goes on")
    recover: float = Field(ge=0, le=1, description="agreement at which the cheap judge is trusted again")
    window: int = Field(200, ge=1, description="audited items that count, the newest")
    least: int = Field(20, ge=1, description="audited items before anything is concluded")

    @model_validator(mode="after")
    def _in_order(self) -> Drift:
        if self.recover < self.below:
            raise ValueError(f"recover: must be at least below ({self.below:g}), is {self.recover:g}")
        if self.least > self.window:
            raise ValueError(f"least: cannot be more than window ({self.window}), is {self.least}")
        return self


class Pacing:
    """Spends a budget."""

    def __init__(self, budget: Budget) -> None:
        self._share = budget.share
        self._most = max(budget.share * budget.window, 1.0)
        self._credit = self._most

    def saw(self, items: int) -> None:
        """So many items came."""
        self._credit = min(self._credit + self._share * items, self._most)

    def spend(self) -> bool:
        """Take one escalation, when there is one to take."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True


class DriftWatch:
    """The share of the newest audited items on which two judges agree; without a `drift` it only measures."""

    def __init__(self, drift: Drift | None) -> None:
        self._drift = drift
        self._least = drift.least if drift else 1
        self._credits: deque[float] = deque(maxlen=drift.window if drift else 200)
        self.drifted = False

    @property
    def agreement(self) -> float | None:
        """In [0, 1]; None before enough items were audited."""
        return sum(self._credits) / len(self._credits) if len(self._credits) >= self._least else None

    def note(self, credit: float) -> None:
        """Agreement on one audited item: 1, 0, or a half for a tie."""
        self._credits.append(credit)
        agreement = self.agreement
        if self._drift is None or agreement is None:
            return
        self.drifted = agreement < (self._drift.recover if self.drifted else self._drift.below)
