"""What the asyncio client does for all its methods: connect, send one request or a batch, run a stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Self, TypeVar

from grpc import aio

from rewardmesh.client import _batches, _streams
from rewardmesh.client._async_stream import stream_items
from rewardmesh.client._base import (
    ClientBase,
    Metadata,
    Priority,
    remaining_s,
)
from rewardmesh.client.balancing import ChannelStatistics
from rewardmesh.client.channel import ChannelOptions, open_aio_channel
from rewardmesh.client.errors import CallFailed, absence_of, call_failed
from rewardmesh.client.results import Absence
from rewardmesh.v1.generation_service_pb2_grpc import GenerationServiceStub
from rewardmesh.v1.judge_service_pb2_grpc import JudgeServiceStub
from rewardmesh.v1.log_prob_service_pb2_grpc import LogProbServiceStub
from rewardmesh.v1.mesh_service_pb2_grpc import MeshServiceStub
from rewardmesh.v1.model_service_pb2_grpc import ModelServiceStub
from rewardmesh.v1.reward_service_pb2_grpc import RewardServiceStub
from rewardmesh.v1.verifier_service_pb2_grpc import VerifierServiceStub

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
Out = TypeVar("Out")


class AsyncCore(ClientBase):
    """The channel and the stubs on it (settings: see `ClientBase`)."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float | None = 60.0,
        tenant: str = "",
        priority: Priority = "",
        chunk_items: int = 256,
        concurrency: int = 4,
        channel_options: ChannelOptions | None = None,
    ) -> None:
        super().__init__(
            target,
            timeout_s=timeout_s,
            tenant=tenant,
            priority=priority,
            chunk_items=chunk_items,
            concurrency=concurrency,
            channel_options=channel_options,
        )
        self.channel = open_aio_channel(target, self._channel_options)
        self.mesh = MeshServiceStub(self.channel)
        self.reward = RewardServiceStub(self.channel)
        self.judge = JudgeServiceStub(self.channel)
        self.verifier = VerifierServiceStub(self.channel)
        self.log_prob = LogProbServiceStub(self.channel)
        self.generation = GenerationServiceStub(self.channel)
        self.model = ModelServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        await self.channel.close()

    def statistics(self) -> ChannelStatistics:
        """Calls, attempts, retries, hedges and ejections since the client was made, for each replica too."""
        return self.channel.statistics()

    async def _unary(self, call: "aio.UnaryUnaryMultiCallable[Q, A]", request: Q, timeout_s: float | None, metadata: Metadata) -> A:
        return await _send(call, request, self._deadline(timeout_s), self.metadata(metadata))

    async def _batch(
        self, call: "aio.UnaryUnaryMultiCallable[Q, A]", batch: _batches.Batch[Q, A, Out], timeout_s: float | None, metadata: Metadata
    ) -> Out:
        deadline, sent = self._deadline(timeout_s), self.metadata(metadata)
        gate = asyncio.Semaphore(self._concurrency)

        async def send(request: Q) -> A | Absence:
            async with gate:
                try:
                    return await _send(call, request, deadline, sent)
                except CallFailed as failure:
                    return absence_of(failure)

        tasks = [asyncio.ensure_future(send(request)) for request in batch.requests]
        try:
            replies = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return _batches.read_replies(batch, replies)

    async def _stream(
        self,
        call: "aio.StreamStreamMultiCallable[Q, A]",
        stream: _streams.Stream[T, Q, A, R],
        items: Iterable[T] | AsyncIterable[T],
        timeout_s: float | None,
        metadata: Metadata,
    ) -> AsyncGenerator[R, None]:
        deadline = None if timeout_s is None else self._deadline(timeout_s)
        async with aclosing(stream_items(self.channel, call, stream, items, deadline, self.metadata(metadata))) as results:
            async for result in results:
                yield result


async def _send(call: "aio.UnaryUnaryMultiCallable[Q, A]", request: Q, deadline: float | None, metadata: tuple[tuple[str, str], ...]) -> A:
    try:
        return await call(request, timeout=remaining_s(deadline), metadata=metadata)
    except aio.AioRpcError as error:
        raise call_failed(error) from error
