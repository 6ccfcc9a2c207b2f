"""A unary asyncio call as an object: what is awaited, cancelled and asked for its status.

What drives a call is a function and not a method: grpc.aio looks through the frames of all tasks for call objects when a channel is
closed, and takes those that are not its own for a mistake.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any

import grpc
from grpc import aio

from rewardmesh.client.balancing.aio_drive import Sending, drive, retried
from rewardmesh.client.balancing.bases import AioUnaryCall
from rewardmesh.client.balancing.race import Race

Channel = aio.Channel


class BalancedUnaryCall(AioUnaryCall):
    """A call over one or several attempts; status and metadata are those of the one that ended it.

    With a single replica, the first attempt is sent at once and awaited where the call is awaited: a task for each call would cost a tenth
    of its time. Whatever else is done with a call (a hedge, a retry, a callback, a second look at it) is a task's.
    """

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._task: asyncio.Task[Any] | None = None
        self._first: _First | None = None
        if sending.pool.unresolved or sending.pool.several:
            self._task = asyncio.get_running_loop().create_task(drive(sending))
        else:
            self._first = _First(sending)

    def __await__(self) -> Generator[Any, None, Any]:
        first = self._first
        if first is None or first.awaited:
            return self._driver().__await__()
        first.awaited = True
        return _inline(first).__await__()

    def __del__(self) -> None:
        if self._first is not None and self._task is None and not self._first.awaited:
            self._first.race.abandon()

    def cancel(self) -> bool:
        """See `grpc.aio.Call`."""
        if self._first is not None and not self._first.ended:
            return self._first.cancel()
        return self._driver().cancel()

    def cancelled(self) -> bool:
        """See `grpc.aio.Call`."""
        return self._driver().cancelled()

    def done(self) -> bool:
        """See `grpc.aio.Call`."""
        return self._driver().done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See `grpc.aio.Call`."""
        self._driver().add_done_callback(lambda task: callback(self))

    def time_remaining(self) -> float | None:
        """See `grpc.aio.Call`."""
        return None if self._sending.deadline is None else max(0.0, self._sending.deadline - time.monotonic())

    async def initial_metadata(self) -> aio.Metadata:
        """See `grpc.aio.Call`; waits for the end."""
        last = await self._ended()
        found: aio.Metadata = aio.Metadata() if last is None else await last.initial_metadata()
        return found

    async def trailing_metadata(self) -> aio.Metadata:
        """See `grpc.aio.Call`."""
        last = await self._ended()
        found: aio.Metadata = aio.Metadata() if last is None else await last.trailing_metadata()
        return found

    async def code(self) -> grpc.StatusCode:
        """See `grpc.aio.Call`."""
        last = await self._ended()
        code: grpc.StatusCode = grpc.StatusCode.CANCELLED if last is None else await last.code()
        return code

    async def details(self) -> str:
        """See `grpc.aio.Call`."""
        last = await self._ended()
        return "Locally cancelled by application!" if last is None else str(await last.details() or "")

    async def debug_error_string(self) -> str:
        """As the calls of grpc.aio have it."""
        last = await self._ended()
        return "" if last is None else str(await last.debug_error_string() or "")

    async def wait_for_connection(self) -> None:
        """See `grpc.aio.Call`; waits for the end, as which replica answers is not known before."""
        if await self._ended() is None:
            raise asyncio.CancelledError
        error = self._driver().exception()
        if error is not None:
            raise error

    async def _ended(self) -> Any:
        driver = self._driver()
        await asyncio.wait([driver])
        return None if driver.cancelled() else self._sending.last

    def _driver(self) -> "asyncio.Future[Any]":
        """What ends when the call ends."""
        if self._task is None:
            first = self._first
            assert first is not None
            if first.awaited:
                return first.outcome()
            first.awaited = True
            self._task = asyncio.get_running_loop().create_task(_inline(first))
        return self._task


class _First:
    """The first attempt of a call with a single replica: sent when the call is made."""

    __slots__ = ("_error", "_outcome", "_response", "_rest", "attempt", "awaited", "call", "ended", "race", "sending")

    def __init__(self, sending: Sending) -> None:
        self.sending = sending
        self.awaited = self.ended = False
        self._outcome: asyncio.Future[Any] | None = None
        self._response: Any = None
        self._error: BaseException | None = None
        self._rest: asyncio.Task[Any] | None = None
        self.race: Race[Channel] = Race(sending.pool, sending.method, sending.deadline, sending.twice)
        self.attempt = self.race.begin()
        try:
            sending.last = self.call = sending.send(self.attempt, sending.request, sending.timeout_s, sending.how)
        except BaseException:
            self.race.abandon()
            raise

    def cancel(self) -> bool:
        """Cancel what is awaited now."""
        cancelled: bool = self.call.cancel() if self._rest is None else self._rest.cancel()
        return cancelled

    def go_on(self) -> "asyncio.Task[Any]":
        """The retries, which may be cancelled while they wait."""
        self._rest = asyncio.get_running_loop().create_task(retried(self.sending, self.race))
        return self._rest

    def end(self, response: Any, error: BaseException | None) -> None:
        """Note how the call ended."""
        self._response, self._error, self.ended = response, error, True
        if self._outcome is not None:
            self._tell(self._outcome)

    def outcome(self) -> "asyncio.Future[Any]":
        """A future of the end, for those who look at a call that is awaited elsewhere."""
        if self._outcome is None:
            self._outcome = asyncio.get_running_loop().create_future()
            if self.ended:
                self._tell(self._outcome)
        return self._outcome

    def _tell(self, outcome: "asyncio.Future[Any]") -> None:
        if outcome.done():
            return
        if self._error is None:
            outcome.set_result(self._response)
        elif isinstance(self._error, asyncio.CancelledError):
            outcome.cancel()
        else:
            outcome.set_exception(self._error)
            outcome.exception()  # it was raised where the call was awaited


async def _inline(first: _First) -> Any:
    """Await the first attempt, and what follows if it fails."""
    race, call = first.race, first.call
    try:
        try:
            response = await call
        except aio.AioRpcError as error:
            if race.failed(first.attempt, error) or race.next_at is None:
                raise
            response = await first.go_on()
        else:
            race.succeeded(first.attempt, ())
    except BaseException as error:
        race.abandon()
        first.end(None, error)
        raise
    first.end(response, None)
    return response
