"""Sessions of `next_logits`: next-token distributions of a policy while somebody else chooses the tokens.

The server's state is nothing but the tokens so far: when the connection breaks, a session is taken up again on another replica with all
of them.
"""

import asyncio
import queue
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Self

import grpc
from grpc import aio

from rewardmesh.client._base import remaining_s
from rewardmesh.client._batches import broken_promise
from rewardmesh.client._converse import StreamBroken, converse
from rewardmesh.client._resume import Resumes
from rewardmesh.client.arrays import pack_ints
from rewardmesh.client.balancing import AioBalancedChannel, BalancedChannel
from rewardmesh.client.errors import call_failed
from rewardmesh.client.messages import Model, model_ref
from rewardmesh.client.results import NextLogits
from rewardmesh.v1.log_prob_service_pb2 import StreamNextLogitsRequest, StreamNextLogitsResponse

Metadata = tuple[tuple[str, str], ...]


class _Tokens:
    """What both sessions know: the tokens so far, and the messages that say so."""

    def __init__(self, prompt_ids: Iterable[int], policy: Model, top_k: int) -> None:
        self._token_ids = list(prompt_ids)
        if not self._token_ids:
            raise ValueError("prompt_ids is empty; give at least the beginning-of-sequence token")
        self._policy = model_ref(policy)
        self._top_k = top_k
        self._latest: NextLogits | None = None

    @property
    def latest(self) -> NextLogits:
        """The distribution of the token after all that was sent. RuntimeError before the session is entered."""
        if self._latest is None:
            raise RuntimeError("the session is not open: use it in a with statement")
        return self._latest

    def _whole(self) -> StreamNextLogitsRequest:
        return StreamNextLogitsRequest(policy=self._policy, token_ids=pack_ints(self._token_ids), top_k=self._top_k)

    def _more(self, token_ids: Iterable[int]) -> StreamNextLogitsRequest:
        chosen = list(token_ids)
        if not chosen:
            raise ValueError("no tokens were chosen")
        self._token_ids += chosen
        return StreamNextLogitsRequest(token_ids=pack_ints(chosen))

    def _read(self, reply: StreamNextLogitsResponse) -> NextLogits:
        try:
            self._latest = NextLogits.from_proto(reply)
        except ValueError as error:
            raise broken_promise(str(error)) from error
        if reply.HasField("policy"):
            # The version that answered: the session ends rather than go on with another one on another replica.
            self._policy = reply.policy
        return self._latest


class NextLogitsSession(_Tokens):
    """A session of the blocking client: `with client.next_logits(prompt_ids) as session: session.latest; session.send([7])`."""

    def __init__(
        self,
        channel: BalancedChannel,
        call: "grpc.StreamStreamMultiCallable[StreamNextLogitsRequest, StreamNextLogitsResponse]",
        prompt_ids: Iterable[int],
        policy: Model,
        top_k: int,
        deadline: float | None,
        metadata: Metadata,
    ) -> None:
        super().__init__(prompt_ids, policy, top_k)
        self._call = call
        self._deadline = deadline
        self._metadata = metadata
        self._resumes = Resumes(channel, deadline)
        self._requests: queue.SimpleQueue[StreamNextLogitsRequest | None] = queue.SimpleQueue()
        self._open = False

    def __enter__(self) -> Self:
        self._connect()
        self._receive()
        return self

    def __exit__(self, *exc: object) -> None:
        self._disconnect()

    def send(self, token_ids: Iterable[int]) -> NextLogits:
        """Say which tokens were chosen (at least one); what may come after them. A call that fails for good raises CallFailed."""
        if not self._open:
            raise RuntimeError("the session is not open: use it in a with statement")
        self._requests.put(self._more(token_ids))
        return self._receive()

    def _connect(self) -> None:
        self._requests = queue.SimpleQueue()
        self._requests.put(self._whole())
        self._running = self._call(iter(self._requests.get, None), timeout=remaining_s(self._deadline), metadata=self._metadata)
        self._progressed = False
        self._open = True

    def _receive(self) -> NextLogits:
        while True:
            try:
                reply = next(self._running)
            except StopIteration:
                self._disconnect()
                raise broken_promise("the stream ended before it answered") from None
            except grpc.RpcError as error:
                failure = call_failed(error)
                self._disconnect()
                wait_s = self._resumes.wait_s(failure, self._progressed)
                if wait_s is None:
                    raise failure from error
                time.sleep(wait_s)
                self._connect()
            else:
                self._progressed = True
                return self._read(reply)

    def _disconnect(self) -> None:
        self._open = False
        self._requests.put(None)
        self._running.cancel()


class AsyncNextLogitsSession(_Tokens):
    """A session of the asyncio client: `async with client.next_logits(prompt_ids) as session: await session.send([7])`."""

    def __init__(
        self,
        channel: AioBalancedChannel,
        call: "aio.StreamStreamMultiCallable[StreamNextLogitsRequest, StreamNextLogitsResponse]",
        prompt_ids: Iterable[int],
        policy: Model,
        top_k: int,
        deadline: float | None,
        metadata: Metadata,
    ) -> None:
        super().__init__(prompt_ids, policy, top_k)
        self._call = call
        self._deadline = deadline
        self._metadata = metadata
        self._resumes = Resumes(channel, deadline)
        self._replies: AsyncGenerator[StreamNextLogitsResponse, None] | None = None

    async def __aenter__(self) -> Self:
        self._connect()
        await self._receive()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._disconnect()

    async def send(self, token_ids: Iterable[int]) -> NextLogits:
        """Say which tokens were chosen (at least one); what may come after them. A call that fails for good raises CallFailed."""
        if self._replies is None:
            raise RuntimeError("the session is not open: use it in a with statement")
        self._requests.put_nowait(self._more(token_ids))
        return await self._receive()

    def _connect(self) -> None:
        self._requests: asyncio.Queue[StreamNextLogitsRequest] = asyncio.Queue()
        self._requests.put_nowait(self._whole())
        running = self._call(timeout=remaining_s(self._deadline), metadata=self._metadata)
        self._replies = converse(running, _drawn(self._requests))
        self._progressed = False

    async def _receive(self) -> NextLogits:
        while self._replies is not None:
            try:
                reply = await anext(self._replies)
            except StopAsyncIteration:
                await self._disconnect()
                raise broken_promise("the stream ended before it answered") from None
            except StreamBroken as broken:
                await self._disconnect()
                wait_s = self._resumes.wait_s(broken.failure, self._progressed)
                if wait_s is None:
                    raise broken.failure from broken
                await asyncio.sleep(wait_s)
                self._connect()
            except BaseException:  # cancelled: which answer belongs to which tokens is lost
                await self._disconnect()
                raise
            else:
                self._progressed = True
                return self._read(reply)
        raise RuntimeError("the session was closed while it waited")

    async def _disconnect(self) -> None:
        replies, self._replies = self._replies, None
        if replies is not None:
            await replies.aclose()


async def _drawn(requests: "asyncio.Queue[StreamNextLogitsRequest]") -> AsyncGenerator[StreamNextLogitsRequest, None]:
    while True:
        yield await requests.get()
