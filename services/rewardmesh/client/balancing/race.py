"""One unary call: its attempts, and what comes after each. The clock and the transport are the caller's: no waiting happens here.

A retry follows a failure, a hedge follows silence; both go to another replica where there is one, and both draw on the channel's budget.
"""

import random
import time
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import grpc

from rewardmesh.client.balancing.pool import Pool
from rewardmesh.client.balancing.replica import Replica
from rewardmesh.client.errors import call_failed

C = TypeVar("C")

_NOT_TWICE = frozenset({"ActivateVersion", "LoadVersion", "UnloadVersion"})
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


def may_be_sent_twice(method: str) -> bool:
    """Whether a unary method ("/package.Service/Method") may be answered by two replicas at once: all but those that change a server."""
    return method.rpartition("/")[2] not in _NOT_TWICE


class Attempt(Generic[C]):
    """One message to one replica. `call` is the transport's own object."""

    __slots__ = ("call", "hedge", "replica", "started")

    def __init__(self, replica: Replica[C], started: float, hedge: bool = False) -> None:
        self.replica = replica
        self.started = started
        self.hedge = hedge
        self.call: Any = None


class Race(Generic[C]):
    """One call. `begin` its first attempt; tell `succeeded` or `failed` for each that ends; at `next_at` ask `due` for another attempt.

    compared: whether there are several replicas, so that loads and durations matter (reading trailers costs a few per cent of a call).
    deadline: on the monotonic clock, None for no limit. next_at: when another attempt may be due; None: never.
    """

    __slots__ = (
        "_attempts",
        "_delay_s",
        "_hedged",
        "_method",
        "_pool",
        "_settled",
        "_tried",
        "_twice",
        "compared",
        "deadline",
        "next_at",
        "running",
    )

    def __init__(self, pool: Pool[C], method: str, deadline: float | None, twice: bool) -> None:
        self._pool = pool
        self._method = method
        self._twice = twice
        self.compared = pool.several
        self._hedged = twice and pool.options.hedging and self.compared and pool.options.max_attempts > 1
        self._attempts = 0
        self._tried: list[Replica[C]] = []
        self._delay_s = 0.0
        self._settled = False
        self.deadline = deadline
        self.next_at: float | None = None
        self.running: list[Attempt[C]] = []

    @property
    def hedged(self) -> bool:
        """Whether a second attempt may start while the first is in flight."""
        return self._hedged

    def begin(self) -> Attempt[C]:
        """The first attempt."""
        now = time.monotonic()
        self._pool.add_call()
        if self._hedged:
            options = self._pool.options
            delay_s = options.hedge_after_s
            self._delay_s = self._pool.latencies(self._method).hedge_delay_s(options.hedge_multiple) if delay_s is None else delay_s
            self.next_at = now + self._delay_s
        return self._start(self._pool.choose(now), now)

    def retry(self) -> Attempt[C]:
        """The attempt that `failed` announced."""
        now = time.monotonic()
        self.next_at = now + self._delay_s if self._hedged else None
        return self._start(self._pool.choose(now, self._tried, retry=True), now)

    def due(self) -> Attempt[C] | None:
        """The attempt that is due at `next_at`: the retry that `failed` announced, or a hedge if budget and replicas allow one."""
        if not self.running:
            return self.retry()
        now = time.monotonic()
        # Silence goes on: look again after twice the time, for another hedge, or for a token.
        self._delay_s *= 2
        self.next_at = now + self._delay_s
        if self._attempts >= self._pool.options.max_attempts:
            self.next_at = None
            return None
        if not self._pool.budget.take():
            return None
        replica = self._pool.choose_hedge(now, [attempt.replica for attempt in self.running])
        if replica is None:
            self._pool.budget.give_back()
            return None
        return self._start(replica, now, hedge=True)

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, at least 0."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def succeeded(self, attempt: Attempt[C], trailers: Iterable[tuple[str, str | bytes]]) -> None:
        """An attempt answered: the call is over, and what still runs has lost (the transport cancels it)."""
        now = time.monotonic()
        self.running.remove(attempt)
        if self.compared:
            self._pool.took(self._method, now - attempt.started)
        self._pool.answered(attempt.replica, now, trailers)
        if attempt.hedge:
            self._pool.hedge_won()
        self._lose(now, attempt)

    def failed(self, attempt: Attempt[C], error: grpc.RpcError) -> bool:
        """An attempt failed. True: the call is over, with this error. False: wait for what still runs, or for `next_at`."""
        now = time.monotonic()
        self.running.remove(attempt)
        failure = call_failed(error)
        code = failure.code
        retryable = False
        if code is grpc.StatusCode.UNAVAILABLE:
            self._pool.failed(attempt.replica, now)
            retryable = True
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.transient:
            trailers = _trailers(error)
            pushback_s = _pushback_s(trailers)
            self._pool.refused(attempt.replica, now, failure.retry_after_s if pushback_s is None else pushback_s, trailers)
            retryable = True
        elif code is grpc.StatusCode.CANCELLED:
            # Not by us (that is no failure of an attempt): a server that is stopped cancels the calls it holds.
            self._pool.failed(attempt.replica, now)
            retryable = self._twice and not self._pool.closed
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._pool.lost(attempt.replica, now, attempt.started)
        else:
            self._pool.answered(attempt.replica, now, ())
        if not retryable:
            return True
        if self.running:
            return False
        options = self._pool.options
        if self._attempts >= options.max_attempts:
            return True
        wait_s = min(options.max_backoff_s, options.initial_backoff_s * 2.0 ** (self._attempts - 1)) * random.uniform(0.5, 1.5)
        next_at = now + max(wait_s, self._pool.wait_s(now, self._tried))
        if (self.deadline is not None and next_at >= self.deadline) or not self._pool.budget.take():
            return True
        self.next_at = next_at
        return False

    def abandon(self) -> None:
        """Nothing that still runs will be told: the call is over, or the caller gave up."""
        if not self._settled:
            for attempt in self.running:
                self._pool.abandoned(attempt.replica)
        self.running.clear()

    def _start(self, replica: Replica[C], now: float, *, hedge: bool = False) -> Attempt[C]:
        attempt = Attempt(replica, now, hedge)
        self._attempts += 1
        self.running.append(attempt)
        self._tried.append(replica)
        return attempt

    def _lose(self, now: float, winner: Attempt[C]) -> None:
        """What began before the winner was slower; what began after it had less time, which says nothing."""
        self._settled = True
        for attempt in self.running:
            if attempt.started < winner.started:
                self._pool.lost(attempt.replica, now, attempt.started)
            else:
                self._pool.abandoned(attempt.replica)


def _trailers(error: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(error.trailing_metadata() or ())


def _pushback_s(trailers: Iterable[tuple[str, str | bytes]]) -> float | None:
    """gRPC's own way for a server to ask for a pause, beside RetryInfo."""
    for key, value in trailers:
        if key == _PUSHBACK_KEY:
            try:
                return max(0.0, int(value) / 1e3)
            except ValueError:
                return None
    return None
