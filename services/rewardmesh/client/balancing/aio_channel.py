"""A `grpc.aio.Channel` over the replicas of a target: generated stubs take it as they take any other."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
from grpc import aio

from rewardmesh.client.balancing.aio_pool import AioPool
from rewardmesh.client.balancing.aio_unary import AioUnary
from rewardmesh.client.balancing.bases import AioStreamStream, AioStreamUnary, AioUnaryStream
from rewardmesh.client.balancing.connectivity import overall_state
from rewardmesh.client.balancing.options import ChannelOptions
from rewardmesh.client.balancing.replica import Replica
from rewardmesh.client.balancing.statistics import ChannelStatistics


class AioBalancedChannel(aio.Channel):
    """Spreads calls over replicas by load; retries and hedges unary ones. A stream stays with the replica it was opened on."""

    def __init__(self, target: str, options: ChannelOptions | None = None) -> None:
        self._pool = AioPool(target, options or ChannelOptions())

    @property
    def options(self) -> ChannelOptions:
        """As given."""
        return self._pool.options

    def statistics(self) -> ChannelStatistics:
        """Counts since the channel was opened."""
        return self._pool.statistics()

    def take_extra_attempt(self) -> bool:
        """Draw a token of the budget, for a stream that is to be taken up again."""
        return not self._pool.closed and self._pool.budget.take()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close all connections; calls in flight are cancelled after `grace` seconds."""
        await self._pool.shut_all(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the best replica."""
        return overall_state(replica.opened().get_state(try_to_connect) for replica in self._pool.replicas)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when `get_state` is another; replicas that come meanwhile are not waited for."""
        await self._resolved()
        while self.get_state() is last_observed_state:
            channels = [replica.opened() for replica in self._pool.replicas]
            if not channels:
                await asyncio.sleep(self.options.initial_backoff_s)
                await self._resolved()
                continue
            changes = [asyncio.ensure_future(channel.wait_for_state_change(channel.get_state())) for channel in channels]
            try:
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()
                await asyncio.gather(*changes, return_exceptions=True)

    async def channel_ready(self) -> None:
        """Return when a replica is connected."""
        await self._resolved()
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool | None = False
    ) -> "aio.UnaryUnaryMultiCallable[Any, Any]":
        """See `grpc.aio.Channel`."""
        arguments = method, request_serializer, response_deserializer
        return AioUnary(self._pool, method, lambda channel: channel.unary_unary(*arguments))

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool | None = False
    ) -> "aio.UnaryStreamMultiCallable[Any, Any]":
        """See `grpc.aio.Channel`."""
        arguments = method, request_serializer, response_deserializer
        return _UnaryStream(self._pool, lambda channel: channel.unary_stream(*arguments))

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool | None = False
    ) -> "aio.StreamUnaryMultiCallable[Any, Any]":
        """See `grpc.aio.Channel`."""
        arguments = method, request_serializer, response_deserializer
        return _StreamUnary(self._pool, lambda channel: channel.stream_unary(*arguments))

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool | None = False
    ) -> "aio.StreamStreamMultiCallable[Any, Any]":
        """See `grpc.aio.Channel`."""
        arguments = method, request_serializer, response_deserializer
        return _StreamStream(self._pool, lambda channel: channel.stream_stream(*arguments))

    async def _resolved(self) -> None:
        if self._pool.unresolved:
            await self._pool.resolve_once()


class _Opening:
    """Opens streams on the replica that is least loaded then, and notes how they end.

    Opening does not wait: while the names of the target are not resolved, gRPC resolves them itself.
    """

    def __init__(self, pool: AioPool, open_callable: Callable[[aio.Channel], Any]) -> None:
        self._pool = pool
        self._open_callable = open_callable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pool = self._pool
        pool.add_call()
        replica = pool.choose_now()
        try:
            opened = replica.callables.get(self)
            if opened is None:
                opened = replica.callables[self] = self._open_callable(replica.opened())
            call = opened(*args, **kwargs)
        except BaseException:
            pool.abandoned(replica)
            raise
        call.add_done_callback(lambda call: pool.note(lambda: _noted(pool, replica, call)))
        return call


class _UnaryStream(_Opening, AioUnaryStream):
    pass


class _StreamUnary(_Opening, AioStreamUnary):
    pass


class _StreamStream(_Opening, AioStreamStream):
    pass


async def _noted(pool: AioPool, replica: Replica[aio.Channel], call: Any) -> None:
    pool.ended(replica, await call.code(), await call.trailing_metadata())
