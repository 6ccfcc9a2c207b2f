"""The pool over grpc.aio channels: all of it in the event loop that made it, but resolving, which is a thread's."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from grpc import aio

from rewardmesh.client.balancing.options import ChannelOptions, channel_arguments
from rewardmesh.client.balancing.pool import Pool
from rewardmesh.client.balancing.probe import PROBE_METHOD, PROBE_TIMEOUT_S, is_alive, probe_request
from rewardmesh.client.balancing.replica import Replica

log = logging.getLogger(__name__)


class AioPool(Pool[aio.Channel]):
    """Replicas with asyncio channels."""

    def __init__(self, target: str, options: ChannelOptions) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._resolving: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(target, options)

    async def resolve_once(self) -> None:
        """Wait for the addresses if none is known."""
        if self._resolving is None:
            self._resolving = self._spawn(self._resolve_logged())
        await asyncio.wait([self._resolving])

    def note(self, noting: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what notes the end of a stream, soon. Not for a stream that is collected when its event loop is over already."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(lambda: self._spawn(noting()))

    async def shut_all(self, grace_s: float | None) -> None:
        """Close all channels and end what runs in the background."""
        channels = self.shut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(channel.close(grace_s) for channel in channels), *self._closing)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _open(self, target: str) -> aio.Channel:
        if self.closed:
            raise aio.UsageError("Channel is closed.")
        self._loop = asyncio.get_running_loop()
        return aio.insecure_channel(target, options=channel_arguments(self.options))

    def _close(self, channel: aio.Channel) -> None:
        self._spawn(channel.close(), self._closing)

    def _probe(self, replica: Replica[aio.Channel]) -> None:
        self._spawn(self._ask(replica))

    async def _ask(self, replica: Replica[aio.Channel]) -> None:
        check: aio.UnaryUnaryMultiCallable[bytes, bytes] = replica.opened().unary_unary(PROBE_METHOD)
        code = grpc.StatusCode.OK
        try:
            await check(probe_request(self.options.health_service), timeout=PROBE_TIMEOUT_S)
        except aio.AioRpcError as error:
            code = error.code()
        self.probed(replica, is_alive(code))

    def _resolve_in_background(self) -> None:
        if self._resolving is None:
            self._resolving = self._spawn(self._resolve_logged())

    async def _resolve_logged(self) -> None:
        addresses: list[str] = []
        try:
            addresses = await asyncio.to_thread(self.resolve)
        except OSError as error:
            log.warning("cannot resolve %s: %s", self.target, error)
        finally:
            self._resolving = None
            self.resolved(addresses)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], among: "set[asyncio.Task[None]] | None" = None) -> "asyncio.Task[None]":
        tasks = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task
