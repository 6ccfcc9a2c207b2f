"""Unary calls that block: over the attempts of a race."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from rewardmesh.client.balancing.bases import UnaryUnary
from rewardmesh.client.balancing.blocking_pool import BlockingPool
from rewardmesh.client.balancing.future import PendingCall
from rewardmesh.client.balancing.race import Attempt, Race, may_be_sent_twice

Channel = grpc.Channel


class BlockingUnary(UnaryUnary):
    """One unary method over all replicas."""

    def __init__(self, pool: BlockingPool, method: str, open_callable: Callable[[Channel], Any]) -> None:
        self._pool = pool
        self._method = method
        self._open_callable = open_callable
        self._twice = may_be_sent_twice(method)

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """See `grpc.UnaryUnaryMultiCallable`."""
        return self.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """See `grpc.UnaryUnaryMultiCallable`."""
        race = self._race(timeout)
        if race.hedged:
            return self._run(race, queue.SimpleQueue(), request, metadata, credentials, wait_for_ready, compression)
        # A single replica, or a call that must not be sent twice: grpc's blocking call is the faster one.
        attempt = race.begin()
        try:
            while True:
                opened = self._callable(attempt)
                try:
                    response, call = opened.with_call(request, race.remaining_s(), metadata, credentials, wait_for_ready, compression)
                except grpc.RpcError as error:
                    if race.failed(attempt, error) or race.next_at is None:
                        raise
                    time.sleep(max(0.0, race.next_at - time.monotonic()))
                    attempt = race.retry()
                else:
                    race.succeeded(attempt, call.trailing_metadata() if race.compared else ())
                    return response, call
        finally:
            race.abandon()

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """See `grpc.UnaryUnaryMultiCallable`; the call has a thread of its own."""
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        race = self._race(timeout)
        pending = PendingCall(lambda: ended.put(None), race.deadline)

        def run() -> None:
            try:
                response, call = self._run(race, ended, request, metadata, credentials, wait_for_ready, compression)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the future's
                pending.fail(error)
            else:
                pending.succeed(response, call)

        threading.Thread(target=run, daemon=True, name="rewardmesh-client-call").start()
        return pending

    def _race(self, timeout: float | None) -> Race[Channel]:
        if self._pool.unresolved:
            self._pool.resolve_once()
        deadline = None if timeout is None else time.monotonic() + timeout
        return Race(self._pool, self._method, deadline, self._twice)

    def _callable(self, attempt: Attempt[Channel]) -> Any:
        callables = attempt.replica.callables
        opened = callables.get(self)
        if opened is None:
            opened = callables[self] = self._open_callable(attempt.replica.opened())
        return opened

    def _run(self, race: Race[Channel], ended: "queue.SimpleQueue[Any]", request: Any, *how: Any) -> tuple[Any, Any]:
        """Drive a race by futures: `ended` gets each that is done, and None when the caller cancels."""

        def send(attempt: Attempt[Channel]) -> None:
            attempt.call = self._callable(attempt).future(request, race.remaining_s(), *how)
            attempt.call.add_done_callback(lambda call: ended.put(attempt))

        try:
            send(race.begin())
            while True:
                try:
                    wait_s = None if race.next_at is None else max(0.0, race.next_at - time.monotonic())
                    attempt = ended.get(timeout=wait_s)
                except queue.Empty:
                    due = race.due()
                    if due is not None:
                        send(due)
                    continue
                if attempt is None:
                    raise grpc.FutureCancelledError
                if attempt not in race.running:
                    continue
                error = attempt.call.exception()
                if error is None:
                    race.succeeded(attempt, attempt.call.trailing_metadata())
                    return attempt.call.result(), attempt.call
                if not isinstance(error, grpc.RpcError) or race.failed(attempt, error):
                    raise error
        finally:
            for attempt in race.running:
                if attempt.call is not None:
                    attempt.call.cancel()
            race.abandon()
