"""The replicas of a target: which gets the next call, which gets none for a while, which have come and gone.

Choice: two replicas are drawn and the less loaded one is taken (Mitzenmacher, "The power of two choices in randomized load balancing",
2001): nearly as even as a look at all of them, and many clients that know the same reports don't all run to the one that looks best.
Suspicion and ejection: a replica that just failed gets calls only if there is no other; failures in a row leave it out for a while, longer
each time, and then a health check, not a caller's call, lets it back in. When all are out, calls go to all: a channel never refuses by
itself, and a replica that answers is back at once.
"""

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

import grpc

from rewardmesh.client.balancing.budget import Budget
from rewardmesh.client.balancing.latency import Latencies
from rewardmesh.client.balancing.options import ChannelOptions
from rewardmesh.client.balancing.replica import Replica
from rewardmesh.client.balancing.statistics import ChannelStatistics
from rewardmesh.client.balancing.targets import Target, grpc_target, parse_target

C = TypeVar("C")

_TIE_CALLS = 0.5
_MEAN_WEIGHT = 0.1
_LEAST_MEAN_S = 0.001
_RESOLVE_AGAIN_S = 1.0
_NEVER = float("inf")


class Pool(ABC, Generic[C]):
    """The replicas and all that is decided about them; threads may share it. How channels are opened and probed is the subclass's."""

    def __init__(self, target: str, options: ChannelOptions) -> None:
        self.target = target
        self.options = options
        self.budget = Budget(options.retry_budget, options.retry_refill)
        self.closed = False
        self._target: Target = parse_target(target)
        self._lock = threading.Lock()
        self._replicas: dict[str, Replica[C]] = {}
        self._available: list[Replica[C]] = []
        self._latencies: dict[str, Latencies] = {}
        self._mean_call_s = 0.0
        self._picks = 0
        self._suspect_until = 0.0
        self._next_probe_at = _NEVER
        self._resolve_at = _NEVER
        self._resolved_at = 0.0
        self._calls = self._hedge_wins = 0
        self._left = [0, 0, 0, 0]
        # Used while the names are not resolved (yet): gRPC resolves the target itself, and its error is the caller's if it cannot either.
        self._unresolved = Replica[C](target, lambda: self._open(target))
        if self._target.names:
            self._resolve_at = 0.0
        else:
            self._set_addresses(self._target.addresses)

    @abstractmethod
    def _open(self, target: str) -> C:
        """Open the channel of one gRPC target."""

    @abstractmethod
    def _close(self, channel: C) -> None:
        """Close the channel of a replica that has left."""

    @abstractmethod
    def _probe(self, replica: Replica[C]) -> None:
        """Ask a replica for its health in the background, and tell `probed`."""

    @abstractmethod
    def _resolve_in_background(self) -> None:
        """Call `resolve` where it does not block, then `resolved`."""

    @property
    def replicas(self) -> list[Replica[C]]:
        """Those the target stands for now; empty while its names are not resolved."""
        return list(self._replicas.values())

    @property
    def several(self) -> bool:
        """Whether there is more than one replica, so that another can be asked."""
        return len(self._replicas) > 1

    @property
    def unresolved(self) -> bool:
        """Whether no address is known."""
        return not self._replicas

    def latencies(self, method: str) -> Latencies:
        """The recent durations of a method's calls."""
        found = self._latencies.get(method)
        if found is None:
            found = self._latencies.setdefault(method, Latencies())
        return found

    def add_call(self) -> None:
        """Note that a caller asked for something."""
        with self._lock:
            self._calls += 1
        self.budget.add_call()

    def choose(self, now: float, exclude: Collection[Replica[C]] = (), *, retry: bool = False) -> Replica[C]:
        """The replica for an attempt, counted as in flight until `answered`, `failed`, `refused` or `abandoned` is told. Not in `exclude`
        if there is another."""
        if now >= self._next_probe_at:
            self._start_probes(now)
        if now >= self._resolve_at:
            self._resolve_at = _NEVER
            self._resolve_in_background()
        with self._lock:
            candidates: Sequence[Replica[C]] = self._available
            if now < self._suspect_until:
                candidates = [replica for replica in candidates if not replica.suspect(now)] or candidates
            if exclude:
                candidates = [replica for replica in candidates if replica not in exclude] or candidates
            if not candidates:
                candidates = [replica for replica in self._replicas.values() if replica not in exclude] or list(self._replicas.values())
            chosen = self._better_of_two(candidates, now) if candidates else self._unresolved
            self._picks += 1
            chosen.picked = self._picks
            chosen.in_flight += 1
            chosen.attempts += 1
            chosen.retries += retry
            return chosen

    def choose_now(self) -> Replica[C]:
        """The same for a stream that is opened now."""
        return self.choose(time.monotonic())

    def choose_hedge(self, now: float, running: Collection[Replica[C]]) -> Replica[C] | None:
        """A healthy replica that runs no attempt of the call and did not just refuse one; None when there is none."""
        with self._lock:
            candidates = [replica for replica in self._available if replica not in running and replica.busy_until <= now]
            if not candidates:
                return None
            chosen = self._better_of_two(candidates, now)
            chosen.in_flight += 1
            chosen.attempts += 1
            chosen.hedges += 1
            return chosen

    def wait_s(self, now: float, tried: Collection[Replica[C]]) -> float:
        """Seconds until a replica takes calls again that asked for a pause: 0 when one that was not tried asked for none."""
        with self._lock:
            usable = self._available or list(self._replicas.values())
            if any(replica.busy_until <= now for replica in usable if replica not in tried):
                return 0.0
            return max(0.0, min((replica.busy_until for replica in usable), default=0.0) - now)

    def answered(self, replica: Replica[C], now: float, trailers: Iterable[tuple[str, str | bytes]]) -> None:
        """A replica answered, be it with an error of the caller's."""
        with self._lock:
            replica.answered(now, trailers)
            if replica.ejected:
                self._readmit(replica, now)
            gone = self._gone(replica)
        if gone is not None:
            self._close(gone)

    def took(self, method: str, seconds: float) -> None:
        """Note how long a successful attempt took."""
        latencies = self.latencies(method)
        with self._lock:
            latencies.observe(seconds)
            mean = self._mean_call_s
            self._mean_call_s = seconds if not mean else mean + _MEAN_WEIGHT * (seconds - mean)

    def refused(
        self, replica: Replica[C], now: float, retry_after_s: float | None, trailers: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """A replica is overloaded: that is load, and while it asked for a pause no hedge goes there, but no failure."""
        with self._lock:
            replica.refused(now, retry_after_s, self._mean_call_s, trailers)
            gone = self._gone(replica)
        if gone is not None:
            self._close(gone)

    def failed(self, replica: Replica[C], now: float) -> None:
        """A replica could not be reached, broke a call off, or kept silent while another answered."""
        with self._lock:
            replica.failed(now)
            self._suspect_until = max(self._suspect_until, replica.suspect_until)
            if replica.failures_in_row >= self.options.eject_after and not replica.ejected and len(self._replicas) > 1:
                self._eject(replica, now)
            if self._target.names:
                self._resolve_at = min(self._resolve_at, max(now, self._resolved_at + _RESOLVE_AGAIN_S))
            gone = self._gone(replica)
        if gone is not None:
            self._close(gone)

    def lost(self, replica: Replica[C], now: float, started: float) -> None:
        """A hedge answered first. A failure of the slower replica only if it answered nobody since the attempt began."""
        if replica.answered_at < started:
            self.failed(replica, now)
        else:
            self.abandoned(replica)

    def hedge_won(self) -> None:
        """Note that a hedge answered first."""
        with self._lock:
            self._hedge_wins += 1

    def abandoned(self, replica: Replica[C]) -> None:
        """An attempt ended for reasons of ours: it says nothing about the replica."""
        with self._lock:
            replica.in_flight -= 1
            gone = self._gone(replica)
        if gone is not None:
            self._close(gone)

    def ended(self, replica: Replica[C], code: grpc.StatusCode | None, trailers: Iterable[tuple[str, str | bytes]]) -> None:
        """A stream is over. One that was cancelled or ran out of time says nothing about the replica."""
        now = time.monotonic()
        if code is grpc.StatusCode.UNAVAILABLE:
            self.failed(replica, now)
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.refused(replica, now, None, trailers)
        elif code in (None, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
            self.abandoned(replica)
        else:
            self.answered(replica, now, trailers)

    def probed(self, replica: Replica[C], alive: bool) -> None:
        """What came of `_probe`."""
        now = time.monotonic()
        with self._lock:
            replica.probing = False
            if not replica.ejected or replica.leaving:
                return
            if alive:
                self._readmit(replica, now)
            else:
                replica.leave_out_longer(now, self.options)
                self._next_probe_at = min(self._next_probe_at, replica.ejected_until)

    def resolve(self) -> list[str]:
        """All addresses now; blocks as long as the resolver does, and raises what it raises."""
        return self._target.resolve(self.options.resolver)

    def resolved(self, addresses: Sequence[str]) -> None:
        """New addresses; none (the resolver failed) keeps the old ones."""
        if addresses:
            self._set_addresses(addresses)
        self._resolved_at = time.monotonic()
        # While there is nothing to send calls to, the next one asks again.
        self._resolve_at = self._resolved_at + (self.options.resolve_every_s if self._replicas else 0.0)

    def statistics(self) -> ChannelStatistics:
        """Counts so far."""
        with self._lock:
            everyone = [*self._replicas.values(), self._unresolved]
            attempts, retries, hedges, ejections = (
                sum(counts) for counts in zip(self._left, *(replica.counts() for replica in everyone), strict=True)
            )
            return ChannelStatistics(
                calls=self._calls,
                attempts=attempts,
                retries=retries,
                hedges=hedges,
                hedge_wins=self._hedge_wins,
                ejections=ejections,
                budget_tokens=self.budget.tokens,
                replicas=MappingProxyType({address: replica.statistics() for address, replica in self._replicas.items()}),
            )

    def shut(self) -> list[C]:
        """Mark as closed; the channels that are open, for the caller to close."""
        with self._lock:
            self.closed = True
            self._resolve_at = self._next_probe_at = _NEVER
            return [replica.channel for replica in (*self._replicas.values(), self._unresolved) if replica.channel is not None]

    def _better_of_two(self, candidates: Sequence[Replica[C]], now: float) -> Replica[C]:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        first = int(random.random() * count)
        second = int(random.random() * (count - 1))
        one, other = candidates[first], candidates[second + (second >= first)]
        mean_s = max(_LEAST_MEAN_S, self._mean_call_s)
        half_life_s = self.options.load_half_life_s
        difference = one.load(now, mean_s, half_life_s) - other.load(now, mean_s, half_life_s)
        if abs(difference) < _TIE_CALLS:
            difference = one.queued(now, half_life_s) - other.queued(now, half_life_s) or one.picked - other.picked
        return one if difference <= 0 else other

    def _eject(self, replica: Replica[C], now: float) -> None:
        replica.eject(now, self.options)
        self._next_probe_at = min(self._next_probe_at, replica.ejected_until)
        self._available = [each for each in self._available if each is not replica]

    def _readmit(self, replica: Replica[C], now: float) -> None:
        replica.readmit(now)
        if not replica.leaving:
            self._available = [*self._available, replica]

    def _start_probes(self, now: float) -> None:
        with self._lock:
            due = [each for each in self._replicas.values() if each.ejected and not each.probing and each.ejected_until <= now]
            later = [each.ejected_until for each in self._replicas.values() if each.ejected and not each.probing and each not in due]
            self._next_probe_at = min(later, default=_NEVER)
            for replica in due:
                replica.probing = True
        for replica in due:
            self._probe(replica)

    def _set_addresses(self, addresses: Iterable[str]) -> None:
        with self._lock:
            if self.closed:
                return
            wanted = dict.fromkeys(addresses)
            before = self._replicas
            self._replicas = {address: before.get(address) or self._new(address) for address in wanted}
            left = [replica for address, replica in before.items() if address not in wanted]
            if not before:
                left.append(self._unresolved)
            for replica in left:
                replica.leaving = True
            self._left = [
                sum(counts) for counts in zip(self._left, *(each.counts() for each in left if each in before.values()), strict=True)
            ]
            self._available = [replica for replica in self._replicas.values() if not replica.ejected]
            gone = [channel for channel in map(self._gone, left) if channel is not None]
        for channel in gone:
            self._close(channel)

    def _new(self, address: str) -> Replica[C]:
        return Replica(address, lambda: self._open(grpc_target(address)))

    def _gone(self, replica: Replica[C]) -> C | None:
        """The channel of a replica that has left and whose last call has ended, to be closed outside the lock."""
        if not replica.leaving or replica.in_flight > 0:
            return None
        channel, replica.channel = replica.channel, None
        replica.callables.clear()
        return channel
