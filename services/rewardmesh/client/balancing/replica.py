"""What is known of one replica, and its channel."""

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rewardmesh.client.balancing.options import ChannelOptions

C = TypeVar("C")

_SUSPECT_S = 1.0
_MOST_DOUBLINGS = 30


@dataclass(frozen=True)
class ReplicaStatistics:
    """Counts of one replica since the channel knows it. `attempts` holds first attempts, retries, hedges and streams.

    failures: attempts that ended UNAVAILABLE, or that stayed without an answer while a hedge elsewhere had one.
    refusals: RESOURCE_EXHAUSTED, which is load and no failure.
    ejections: times it was left out; `ejected` whether it is now. in_flight: calls and streams now.
    """

    attempts: int
    retries: int
    hedges: int
    failures: int
    refusals: int
    ejections: int
    ejected: bool
    in_flight: int


class Replica(Generic[C]):
    """One address. Its fields are the pool's to change, under the pool's lock.

    Times are of the monotonic clock, in seconds; those in the past are as good as never.
    """

    def __init__(self, address: str, open_channel: Callable[[], C]) -> None:
        self.address = address
        self._open_channel = open_channel
        self._opening = threading.Lock()
        self.channel: C | None = None
        self.callables: dict[object, Any] = {}
        self.leaving = False
        self.in_flight = 0
        self.picked = 0
        # Load, as the last reply reported it.
        self.wait_s = 0.0
        self.queue_tokens = 0
        self.reported_at = 0.0
        self.busy_until = 0.0
        # Failures.
        self.failures_in_row = 0
        self.suspect_until = 0.0
        self.answered_at = 0.0
        self.ejected = False
        self.ejected_until = 0.0
        self.returned_at = 0.0
        self.strikes = 0
        self.probing = False
        # Counts.
        self.attempts = self.retries = self.hedges = self.failures = self.refusals = self.ejections = 0

    def opened(self) -> C:
        """The channel, opened when it is first needed."""
        with self._opening:
            if self.channel is None:
                self.channel = self._open_channel()
            return self.channel

    def load(self, now: float, mean_call_s: float, half_life_s: float) -> float:
        """Calls in flight here, plus the reported wait as a number of calls."""
        load = float(self.in_flight)
        if self.wait_s:
            load += self.wait_s / mean_call_s * 0.5 ** ((now - self.reported_at) / half_life_s)
        return load

    def queued(self, now: float, half_life_s: float) -> int:
        """Tokens that the last reply reported as queued, for a tie; 0 once that is old."""
        return self.queue_tokens if now - self.reported_at < half_life_s else 0

    def answered(self, now: float, trailers: Iterable[tuple[str, str | bytes]]) -> None:
        """An attempt had an answer, whose trailers may tell the load."""
        self.in_flight -= 1
        self.answered_at = now
        self.failures_in_row = 0
        for key, value in trailers:
            if key == "x-estimated-wait-ms":
                self.wait_s, self.reported_at = _number(value) / 1e3, now
            elif key == "x-queue-tokens":
                self.queue_tokens, self.reported_at = int(_number(value)), now

    def refused(self, now: float, retry_after_s: float | None, mean_call_s: float, trailers: Iterable[tuple[str, str | bytes]]) -> None:
        """An attempt was refused for overload: there is a call's wait at least, or as long as it says."""
        self.answered(now, trailers)
        self.refusals += 1
        if retry_after_s is not None:
            self.busy_until = now + retry_after_s
        self.wait_s = max(self.wait_s, retry_after_s or mean_call_s)
        self.reported_at = now

    def failed(self, now: float) -> None:
        """An attempt had no answer."""
        self.in_flight -= 1
        self.failures += 1
        self.failures_in_row += 1
        self.suspect_until = now + _SUSPECT_S * self.failures_in_row

    def eject(self, now: float, options: ChannelOptions) -> None:
        """Leave it out: longer than the last time, unless that was long ago."""
        if now - self.returned_at > options.max_ejection_s:
            self.strikes = 0
        self.ejected = True
        self.ejections += 1
        self._leave_out(now, options)

    def leave_out_longer(self, now: float, options: ChannelOptions) -> None:
        """It did not answer the probe."""
        self.strikes += 1
        self._leave_out(now, options)

    def readmit(self, now: float) -> None:
        """It answers again."""
        self.ejected = False
        self.failures_in_row = 0
        self.strikes += 1
        self.returned_at = now

    def _leave_out(self, now: float, options: ChannelOptions) -> None:
        growing_s = options.ejection_s * 2.0 ** min(self.strikes, _MOST_DOUBLINGS)
        self.ejected_until = now + min(growing_s, options.max_ejection_s) * random.uniform(0.75, 1.25)

    def suspect(self, now: float) -> bool:
        """Whether it failed just now: one that fails at once never has calls in flight, and would look idle."""
        return self.failures_in_row > 0 and now < self.suspect_until

    def counts(self) -> tuple[int, int, int, int]:
        """Attempts, retries, hedges, ejections."""
        return self.attempts, self.retries, self.hedges, self.ejections

    def statistics(self) -> ReplicaStatistics:
        """The counts as they are now."""
        return ReplicaStatistics(
            attempts=self.attempts,
            retries=self.retries,
            hedges=self.hedges,
            failures=self.failures,
            refusals=self.refusals,
            ejections=self.ejections,
            ejected=self.ejected,
            in_flight=self.in_flight,
        )


def _number(value: str | bytes) -> float:
    """A load report's number; a server that reports nonsense reports nothing."""
    try:
        number = float(value)
    except ValueError:
        return 0.0
    return number if 0 <= number < float("inf") else 0.0
