"""A bidirectional asyncio call: writing and reading at once, with the caller's own errors kept apart from the call's.

A write that fails because the server has just ended the call makes grpc.aio overwrite the status the server sent with its own
"INTERNAL: Internal error from Core" (grpc issue 36066). The first status is therefore noted when it arrives, and used instead.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable
from contextlib import suppress
from typing import Any, TypeVar, cast

import grpc
from grpc import aio

from rewardmesh.client.errors import CallFailed, call_failed

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

_OVERWRITTEN = "Internal error from Core"
_STATUS_WAIT_S = 1.0


class StreamBroken(Exception):
    """The call itself failed, as opposed to the caller's iterable, which may well raise errors of other calls."""

    def __init__(self, failure: CallFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


async def iterate(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Iterate over either kind."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def converse(running: "aio.StreamStreamCall[Q, A]", requests: AsyncIterable[Q]) -> AsyncGenerator[A, None]:
    """Write and read at once. grpc's own request iteration turns the caller's errors into a bare cancellation; here they are raised."""
    trouble: list[Exception] = []
    statuses: list[CallFailed] = []
    running.add_done_callback(lambda call: statuses.append(_status_now(call)))

    async def write() -> None:
        try:
            async for request in requests:
                try:
                    await running.write(request)
                except (aio.AioRpcError, asyncio.InvalidStateError):  # the call is over: the reader learns its status
                    return
            await running.done_writing()
        except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises, the reader raises it again
            trouble.append(error)
            running.cancel()

    writer = asyncio.ensure_future(write())
    try:
        while True:
            reply = await running.read()
            if reply is aio.EOF:
                break
            yield cast(A, reply)
    except aio.AioRpcError as error:
        failure = await _true_failure(call_failed(error), running, statuses)
        if failure.code is not grpc.StatusCode.OK:
            raise StreamBroken(failure) from error
    except asyncio.CancelledError:
        if trouble:
            raise trouble[0] from None
        raise
    finally:
        running.cancel()
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer
    if trouble:
        raise trouble[0]


async def _true_failure(failure: CallFailed, running: "aio.StreamStreamCall[Q, A]", statuses: list[CallFailed]) -> CallFailed:
    if failure.details != _OVERWRITTEN:
        return failure
    # Either the server's status came first, or it is still on its way and will replace the overwriting one.
    give_up = time.monotonic() + _STATUS_WAIT_S
    while True:
        for status in (*statuses, _status_now(running)):
            if status.details != _OVERWRITTEN:
                return status
        if time.monotonic() > give_up:
            return CallFailed(grpc.StatusCode.UNAVAILABLE, "the call ended while a message was being sent")
        await asyncio.sleep(0.01)


def _status_now(call: Any) -> CallFailed:
    """The status of a call that is done. Its coroutines do not suspend then, so that a plain callback can step through them."""
    code, details, trailing = _now(call.code()), _now(call.details()), _now(call.trailing_metadata())
    return call_failed(aio.AioRpcError(code, aio.Metadata(), trailing or aio.Metadata(), details))


def _now(awaitable: Awaitable[Any]) -> Any:
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the status of a call that is done was not there")
