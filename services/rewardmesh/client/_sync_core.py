"""What the blocking client does for all its methods: connect, send one request or a batch, run a stream."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import grpc

from rewardmesh.client import _batches, _streams
from rewardmesh.client._base import (
    ClientBase,
    Metadata,
    Priority,
    remaining_s,
)
from rewardmesh.client._sync_stream import stream_items
from rewardmesh.client.balancing import ChannelStatistics
from rewardmesh.client.channel import ChannelOptions, open_channel
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


class BlockingCore(ClientBase):
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
        self.channel = open_channel(target, self._channel_options)
        self.mesh = MeshServiceStub(self.channel)
        self.reward = RewardServiceStub(self.channel)
        self.judge = JudgeServiceStub(self.channel)
        self.verifier = VerifierServiceStub(self.channel)
        self.log_prob = LogProbServiceStub(self.channel)
        self.generation = GenerationServiceStub(self.channel)
        self.model = ModelServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self.channel.close()

    def statistics(self) -> ChannelStatistics:
        """Calls, attempts, retries, hedges and ejections since the client was made, for each replica too."""
        return self.channel.statistics()

    def _unary(self, call: "grpc.UnaryUnaryMultiCallable[Q, A]", request: Q, timeout_s: float | None, metadata: Metadata) -> A:
        return _send(call, request, self._deadline(timeout_s), self.metadata(metadata))

    def _batch(
        self, call: "grpc.UnaryUnaryMultiCallable[Q, A]", batch: _batches.Batch[Q, A, Out], timeout_s: float | None, metadata: Metadata
    ) -> Out:
        deadline, sent = self._deadline(timeout_s), self.metadata(metadata)

        def send(request: Q) -> A | Absence:
            try:
                return _send(call, request, deadline, sent)
            except CallFailed as failure:
                return absence_of(failure)

        if len(batch.requests) <= 1:
            return _batches.read_replies(batch, [send(request) for request in batch.requests])
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="rewardmesh-client")
        try:
            return _batches.read_replies(batch, list(executor.map(send, batch.requests)))
        finally:
            executor.shutdown(cancel_futures=True)

    def _stream(
        self,
        call: "grpc.StreamStreamMultiCallable[Q, A]",
        stream: _streams.Stream[T, Q, A, R],
        items: Iterable[T],
        timeout_s: float | None,
        metadata: Metadata,
    ) -> Iterator[R]:
        deadline = None if timeout_s is None else self._deadline(timeout_s)
        yield from stream_items(self.channel, call, stream, items, deadline, self.metadata(metadata))


def _send(call: "grpc.UnaryUnaryMultiCallable[Q, A]", request: Q, deadline: float | None, metadata: tuple[tuple[str, str], ...]) -> A:
    try:
        return call(request, timeout=remaining_s(deadline), metadata=metadata)
    except grpc.RpcError as error:
        raise call_failed(error) from error
