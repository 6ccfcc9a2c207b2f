"""Drives the attempts of a unary asyncio call."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from grpc import aio

from rewardmesh.client.balancing.aio_pool import AioPool
from rewardmesh.client.balancing.race import Attempt, Race

Channel = aio.Channel


class Sending:
    """What a call sends, and the attempt that ended it."""

    __slots__ = ("deadline", "how", "last", "method", "pool", "request", "send", "timeout_s", "twice")

    def __init__(
        self, pool: AioPool, method: str, twice: bool, timeout_s: float | None, send: Callable[..., Any], request: Any, how: dict[str, Any]
    ) -> None:
        self.pool = pool
        self.method = method
        self.twice = twice
        self.timeout_s = timeout_s
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.send = send
        self.request = request
        self.how = how
        self.last: Any = None


async def drive(sending: Sending) -> Any:
    """All of a call, when its replicas are several or not known yet."""
    if sending.pool.unresolved:
        await sending.pool.resolve_once()
    race: Race[Channel] = Race(sending.pool, sending.method, sending.deadline, sending.twice)
    if race.hedged:
        return await _hedged(sending, race)
    return await _one_by_one(sending, race, race.begin())


async def retried(sending: Sending, race: Race[Channel]) -> Any:
    """The rest of a call whose first attempt failed."""
    if race.next_at is not None:
        await asyncio.sleep(race.next_at - time.monotonic())
    return await _one_by_one(sending, race, race.retry())


async def _one_by_one(sending: Sending, race: Race[Channel], attempt: Attempt[Channel]) -> Any:
    try:
        while True:
            sending.last = call = sending.send(attempt, sending.request, race.remaining_s(), sending.how)
            try:
                response = await call
            except aio.AioRpcError as error:
                if race.failed(attempt, error) or race.next_at is None:
                    raise
                await asyncio.sleep(race.next_at - time.monotonic())
                attempt = race.retry()
            else:
                race.succeeded(attempt, await call.trailing_metadata() if race.compared else ())
                return response
    finally:
        race.abandon()


async def _hedged(sending: Sending, race: Race[Channel]) -> Any:
    loop = asyncio.get_running_loop()
    wake: asyncio.Future[None] = loop.create_future()

    def rouse(*_: Any) -> None:
        if not wake.done():
            wake.set_result(None)

    def send(attempt: Attempt[Channel]) -> None:
        attempt.call = sending.send(attempt, sending.request, race.remaining_s(), sending.how)
        attempt.call.add_done_callback(rouse)

    try:
        send(race.begin())
        while True:
            timer = None if race.next_at is None else loop.call_later(race.next_at - time.monotonic(), rouse)
            try:
                await wake
            finally:
                if timer is not None:
                    timer.cancel()
            wake = loop.create_future()
            for attempt in [attempt for attempt in race.running if attempt.call.done()]:
                sending.last = call = attempt.call
                try:
                    response = await call
                except aio.AioRpcError as error:
                    if race.failed(attempt, error):
                        raise
                else:
                    race.succeeded(attempt, await call.trailing_metadata())
                    return response
            if race.next_at is not None and time.monotonic() >= race.next_at:
                due = race.due()
                if due is not None:
                    send(due)
    finally:
        for attempt in race.running:
            if attempt.call is not None:
                attempt.call.cancel()
        race.abandon()
