"""StreamNextLogits: open streams, each with a KV cache of its own, computed between the batches of the one engine thread.

The server holds nothing of a stream but its tokens' keys and values, so that it may end one at any time: a stream that is idle for too
long is ended with UNAVAILABLE, and its client opens another with all tokens so far, here or on another replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import grpc
import torch

from rewardmesh.engine.interface import NotSupportedError, ServedModel
from rewardmesh.engine.next_logits import LogitStream, NextTokens, most_likely
from rewardmesh.engine.versions import model_ref
from rewardmesh.logprob.config import LogProbConfig
from rewardmesh.logprob.queries import Ids, outside, token_ids
from rewardmesh.logprob.statistics import floats
from rewardmesh.logprob.steps import Run, Steps
from rewardmesh.serving.errors import CallError, failed_precondition, invalid_argument, overloaded
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api


class LogitStreams:
    """All open streams of a server.

    Args:
        config: how many streams and tokens at a time, and how long one may be idle.
        resolve: finds the policy version that a request names.
        run: runs a job on the thread that owns the models.
    """

    def __init__(self, config: LogProbConfig, resolve: Callable[[pb.ModelRef], ServedModel], run: Run) -> None:
        self._config = config
        self._resolve = resolve
        self._steps = Steps(run, apart=config.batch_invariant)
        self._open = 0
        self._tokens = 0

    async def answer(self, requests: AsyncIterator[api.StreamNextLogitsRequest]) -> AsyncGenerator[api.StreamNextLogitsResponse, None]:
        """The replies of one stream.

        Raises:
            CallError: INVALID_ARGUMENT for a wrong message, RESOURCE_EXHAUSTED without room, UNAVAILABLE after idling,
                FAILED_PRECONDITION for an engine that cannot, INTERNAL when the policy computes NaN or infinity.
        """
        with self._room() as grow:
            request = await self._receive(requests)
            if request is None:
                return
            top_k = request.top_k
            if top_k < 0:
                raise invalid_argument("top_k", "must not be negative")
            model = self._resolve(request.policy)
            try:
                stream = LogitStream(model)
            except NotSupportedError as error:
                raise failed_precondition(str(error)) from error
            policy: pb.ModelRef | None = model_ref(model)
            while request is not None:
                ids = _tokens(request, stream)
                grow(len(ids))
                logits = await self._steps.advance(stream, ids)
                if not bool(torch.isfinite(logits).all()):
                    raise CallError(grpc.StatusCode.INTERNAL, "the policy computed NaN or infinity")
                yield _reply(most_likely(logits, top_k), policy)
                policy = None
                request = await self._receive(requests)
                if request is not None and (request.HasField("policy") or request.top_k):
                    raise invalid_argument("policy, top_k", "are fixed by the first message of a stream")

    async def _receive(self, requests: AsyncIterator[api.StreamNextLogitsRequest]) -> api.StreamNextLogitsRequest | None:
        """The next message; None when the client sends no more."""
        idle = self._config.stream_idle_seconds
        try:
            return await asyncio.wait_for(anext(requests, None), idle)
        except TimeoutError:
            message = f"the client sent nothing for {idle:g} s; open another stream with all tokens so far"
            raise CallError(grpc.StatusCode.UNAVAILABLE, message) from None

    @contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """The place of one stream; gives the function that takes room for more tokens. All is given back at the end."""
        limit = self._config.max_open_streams
        if self._open >= limit:
            raise overloaded(f"{limit} streams are open, no room for another", 1.0)
        taken = 0

        def grow(tokens: int) -> None:
            nonlocal taken
            most = self._config.max_stream_tokens
            if self._tokens + tokens > most:
                raise overloaded(f"open streams hold {self._tokens} of {most} tokens, no room for {tokens} more", 1.0)
            self._tokens += tokens
            taken += tokens

        self._open += 1
        try:
            yield grow
        finally:
            self._open -= 1
            self._tokens -= taken


def _tokens(request: api.StreamNextLogitsRequest, stream: LogitStream) -> Ids:
    """The message's tokens, fit for the stream."""
    model = stream.model
    try:
        ids = token_ids(request.token_ids, "token_ids")
    except ValueError as error:
        raise invalid_argument("token_ids", str(error).removeprefix("token_ids: ")) from error
    if not len(ids):
        raise invalid_argument("token_ids", "is empty; give the prompt first, then the tokens chosen since")
    if wrong := outside(ids, "token_ids", model.vocabulary):
        raise invalid_argument("token_ids", wrong.removeprefix("token_ids: "))
    if stream.tokens + len(ids) > model.max_tokens:
        raise CallError(grpc.StatusCode.OUT_OF_RANGE, f"{stream.tokens + len(ids)} tokens, the policy takes {model.max_tokens}")
    return ids


def _reply(tokens: NextTokens, policy: pb.ModelRef | None) -> api.StreamNextLogitsResponse:
    reply = api.StreamNextLogitsResponse(logits=floats(tokens.logits), remainder=tokens.remainder, policy=policy)
    if tokens.ids is not None:
        ids = tokens.ids.to(torch.int32).numpy().astype("<i4")
        reply.token_ids.CopyFrom(pb.Int32Array(data=ids.tobytes(), length=ids.size))
    return reply
