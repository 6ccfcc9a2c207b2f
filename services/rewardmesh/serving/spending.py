"""What answers cost, by configured prices, and budgets of tenants in a sliding window of time.

A call reserves the most it can cost before anything is computed, is charged for what the engine has really read and written, and gives
back the rest: calls that run side by side cannot spend the same dollar twice. The books are in this process: each replica has budgets of
its own, and they begin anew when it is restarted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Self

import grpc
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.serving.errors import CallError

OTHER = "other"
"""Name in budgets and metrics of all tenants that have no budget of their own."""
SLICES = 100
"""Parts of the window in which spending is added up; what is spent frees with its part."""
SMALLEST_WAIT_S = 1.0

COST_USD = Counter(
    "rewardmesh_cost_usd", "US dollars charged by configured prices; tenants without a budget are 'other'.", ["service", "model", "tenant"]
)
TOKENS_WRITTEN = Counter(
    "rewardmesh_tokens_written",
    "Tokens written by models and charged; tenants without a budget are 'other'.",
    ["service", "model", "tenant"],
)


class Prices(BaseModel):
    """What a model costs, US dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    read_per_million_tokens: float = Field(ge=0, allow_inf_nan=False, description="for tokens that the model reads")
    written_per_million_tokens: float = Field(ge=0, allow_inf_nan=False, description="for tokens that it writes")

    def of(self, tokens_read: int, tokens_written: int) -> float:
        """US dollars for so many tokens."""
        return (tokens_read * self.read_per_million_tokens + tokens_written * self.written_per_million_tokens) / 1e6


class Ledger:
    """Who has spent what; safe to use from several threads.

    Args:
        prices: None counts tokens but no cost.
        budgets: most US dollars in a window, by tenant; "other" is for all that are not named, together. A tenant without one has no
            limit.
        window_s: length of the window.
        service: for the metrics.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        prices: Prices | None,
        budgets: Mapping[str, float],
        window_s: float,
        *,
        service: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prices = prices
        self._books = {tenant: _Book(limit, window_s) for tenant, limit in budgets.items()}
        self._window_s = window_s
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()

    def price(self, tokens_read: int, tokens_written: int) -> float | None:
        """US dollars for so many tokens; None where no price is configured."""
        return None if self._prices is None else self._prices.of(tokens_read, tokens_written)

    def spent(self, tenant: str) -> float:
        """US dollars that a tenant's budget has lost in the window that ends now, without what is reserved; 0 without a budget."""
        book = self._book(tenant)
        with self._lock:
            return 0.0 if book is None else book.spent(self._clock())

    def reserve(self, tenant: str, *, tokens_read: int = 0, tokens_written: int = 0) -> Bill:
        """Set aside the most that a call can cost; use it in a `with` block, whose end gives back what was not charged.

        Raises:
            CallError: RESOURCE_EXHAUSTED, the budget has no room for it; with the time until it has, where it ever will.
        """
        most = self.price(tokens_read, tokens_written) or 0.0
        book = self._book(tenant)
        if book is not None:
            with self._lock:
                book.reserve(most, self._clock(), self._named(tenant))
        return Bill(self, tenant, most)

    def _charge(self, tenant: str, model: str, tokens_read: int, tokens_written: int, reserved: float) -> float | None:
        name = self._named(tenant)
        TOKENS_WRITTEN.labels(self._service, model, name).inc(tokens_written)
        cost = self.price(tokens_read, tokens_written)
        if cost is None:
            return None
        COST_USD.labels(self._service, model, name).inc(cost)
        if (book := self._book(tenant)) is not None:
            with self._lock:
                book.give_back(min(cost, reserved))
                book.add(cost, self._clock())
        return cost

    def _give_back(self, tenant: str, reserved: float) -> None:
        if (book := self._book(tenant)) is not None:
            with self._lock:
                book.give_back(reserved)

    def _named(self, tenant: str) -> str:
        return tenant if tenant in self._books else OTHER

    def _book(self, tenant: str) -> _Book | None:
        return self._books.get(self._named(tenant))


class Bill:
    """One call's reservation."""

    def __init__(self, ledger: Ledger, tenant: str, reserved: float) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._reserved = reserved
        self._lock = threading.Lock()

    def charge(self, model: str, *, tokens_read: int, tokens_written: int) -> float | None:
        """Charge what was read and written, also beyond what was reserved: it is spent already.

        Returns:
            US dollars, or None where no price is configured.
        """
        with self._lock:
            cost = self._ledger._charge(self._tenant, model, tokens_read, tokens_written, self._reserved)
            self._reserved -= min(cost or 0.0, self._reserved)
        return cost

    def close(self) -> None:
        """Give back what was not charged; safe to call twice."""
        with self._lock:
            self._ledger._give_back(self._tenant, self._reserved)
            self._reserved = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Book:
    """Spending of one budget. The ledger's lock is held."""

    def __init__(self, limit: float, window_s: float) -> None:
        self.limit = limit
        self.reserved = 0.0
        self._window_s = window_s
        self._slices: deque[tuple[float, float]] = deque()
        """(when a slice ends, what was spent in it)"""

    def spent(self, now: float) -> float:
        """What was spent in the window; forgets what is older."""
        while self._slices and self._slices[0][0] <= now - self._window_s:
            self._slices.popleft()
        return math.fsum(cost for _, cost in self._slices)

    def add(self, cost: float, now: float) -> None:
        length = self._window_s / SLICES
        ends = (math.floor(now / length) + 1) * length
        if self._slices and self._slices[-1][0] == ends:
            cost += self._slices.pop()[1]
        self._slices.append((ends, cost))

    def give_back(self, amount: float) -> None:
        self.reserved = max(self.reserved - amount, 0.0)

    def reserve(self, most: float, now: float, tenant: str) -> None:
        spent = self.spent(now)
        left = self.limit - spent - self.reserved
        if left > 0 and most <= left:
            self.reserved += most
            return
        message = (
            f"the budget of tenant {tenant!r} is ${self.limit:g} in {self._window_s:g} s; ${spent:.6g} of it are spent and"
            f" ${self.reserved:.6g} reserved, this call may cost ${most:.6g}"
        )
        if most > self.limit or self.limit == 0:
            message += "; waiting does not help: ask for fewer items, votes or tokens, or raise budgets"
            raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, retry_after_s=self._frees_in(most - left, now))

    def _frees_in(self, missing: float, now: float) -> float:
        """Seconds until so much is free again; what is only reserved may be given back at any time."""
        freed = self.reserved
        if freed >= missing and freed > 0:
            return SMALLEST_WAIT_S
        for ends, cost in self._slices:
            freed += cost
            if freed >= missing and freed > 0:
                return max(ends + self._window_s - now, SMALLEST_WAIT_S)
        return self._window_s
