"""The asyncio client: one for any server of the mesh.

    async with AsyncClient("127.0.0.1:50051") as client:
        scores = await client.score([sample("a", "What is 2 + 2?", "4")])

Chunks of a batch that fail for want of luck (after the channel's own retries) become absences of their items;
a wrong request raises CallFailed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar

import grpc
from grpc import aio

from rewardmesh.client import _batches, _streams
from rewardmesh.client._base import (
    HEALTH_METHOD,
    ClientBase,
    HealthReply,
    HealthRequest,
    HealthStatus,
    Metadata,
    Priority,
    evaluate_options,
    health_options,
    health_status,
    remaining_s,
)
from rewardmesh.client._converse import StreamBroken, converse, iterate
from rewardmesh.client.channel import ChannelOptions, open_aio_channel
from rewardmesh.client.errors import CallFailed, absence_of, call_failed
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Absence, Evaluations, Generation, Grades, Preference, Score, Selection, TokenScores, Verdict
from rewardmesh.v1.common_pb2 import ModelRef, Sample
from rewardmesh.v1.generation_service_pb2 import GenerateRequest
from rewardmesh.v1.generation_service_pb2_grpc import GenerationServiceStub
from rewardmesh.v1.judge_service_pb2 import Pair
from rewardmesh.v1.judge_service_pb2_grpc import JudgeServiceStub
from rewardmesh.v1.log_prob_service_pb2 import LogProbWants, TokenSequence
from rewardmesh.v1.log_prob_service_pb2_grpc import LogProbServiceStub
from rewardmesh.v1.mesh_service_pb2 import DescribeProgramRequest, DescribeProgramResponse, ListProgramsRequest
from rewardmesh.v1.mesh_service_pb2_grpc import MeshServiceStub
from rewardmesh.v1.model_service_pb2 import (
    ActivateVersionRequest,
    ActivateVersionResponse,
    GetModelRequest,
    GetModelResponse,
    ListVersionsRequest,
    ListVersionsResponse,
    LoadVersionRequest,
    LoadVersionResponse,
    UnloadVersionRequest,
    UnloadVersionResponse,
)
from rewardmesh.v1.model_service_pb2_grpc import ModelServiceStub
from rewardmesh.v1.reward_service_pb2 import ScoreOptions
from rewardmesh.v1.reward_service_pb2_grpc import RewardServiceStub
from rewardmesh.v1.verifier_service_pb2 import ListVerifiersRequest, VerifierInfo
from rewardmesh.v1.verifier_service_pb2_grpc import VerifierServiceStub

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
Out = TypeVar("Out")


class AsyncClient(ClientBase):
    """Calls any server of the mesh; make it inside the running event loop that will use it (settings: see `ClientBase`).

    Raw stubs for what has no method here: `mesh`, `reward`, `judge`, `verifier`, `log_prob`, `generation`, `model`;
    send `client.metadata()` with them.
    """

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

    async def score(
        self,
        samples: Iterable[Sample],
        *,
        model: Model = None,
        options: ScoreOptions | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Score]:
        """Score samples with a reward model; one result a sample, in order."""
        batch = _batches.score(samples, self._chunk_items, options, model)
        return await self._batch(self.reward.Score, batch, timeout_s, metadata)

    def stream_scores(
        self,
        samples: Iterable[Sample] | AsyncIterable[Sample],
        *,
        model: Model = None,
        options: ScoreOptions | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> AsyncIterator[Score]:
        """Score samples as they come; one result a sample, in any order. When the connection breaks, what is left becomes absences."""
        return self._stream(self.reward.StreamScores, _streams.score_stream(options, model), samples, timeout_s, metadata)

    async def compare(
        self,
        pairs: Iterable[Pair],
        *,
        model: Model = None,
        template: str = "",
        both_orders: bool = True,
        votes: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        want_rationale: bool = False,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Preference]:
        """Ask a judge which answer of each pair is better; one result a pair, in order. votes=0 reads probabilities instead of sampling."""
        like = _batches.compare_request(model, template, both_orders, votes, temperature, seed, want_rationale)
        batch = _batches.compare(pairs, self._chunk_items, like)
        return await self._batch(self.judge.Compare, batch, timeout_s, metadata)

    async def grade(
        self,
        samples: Iterable[Sample],
        *,
        model: Model = None,
        rubric: str = "",
        votes: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        want_rationale: bool = False,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Grades]:
        """Ask a judge for grades by a rubric it knows, or by each sample's own criteria; one result a sample, in order."""
        like = _batches.grade_request(model, rubric, votes, temperature, seed, want_rationale)
        batch = _batches.grade(samples, self._chunk_items, like)
        return await self._batch(self.judge.Grade, batch, timeout_s, metadata)

    async def verify(
        self,
        samples: Iterable[Sample],
        verifier: str,
        *,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Verdict]:
        """Check samples with a verifier; options follow its schema (see `list_verifiers`). One result a sample, in order."""
        batch = _batches.verify(samples, self._chunk_items, verifier, options)
        return await self._batch(self.verifier.Verify, batch, timeout_s, metadata)

    async def list_verifiers(self, *, timeout_s: float | None = None, metadata: Metadata = None) -> list[VerifierInfo]:
        """The verifiers of the server, by name."""
        return list((await self._unary(self.verifier.ListVerifiers, ListVerifiersRequest(), timeout_s, metadata)).verifiers)

    async def score_tokens(
        self,
        sequences: Iterable[TokenSequence],
        *,
        policies: Sequence[str | ModelRef] = (),
        temperature: float = 0.0,
        want: LogProbWants | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[TokenScores]:
        """Log-probabilities of completion tokens: for each sequence in order, one result a policy (one result when no policy is named)."""
        like = _batches.score_tokens_request(policies, temperature, want)
        batch = _batches.score_tokens(sequences, self._chunk_items, like)
        return await self._batch(self.log_prob.ScoreTokens, batch, timeout_s, metadata)

    async def generate(
        self, request: GenerateRequest, *, timeout_s: float | None = None, metadata: Metadata = None
    ) -> AsyncIterator[Generation]:
        """Sample completions, each as it ends, in any order; n for each prompt, the missing ones as absences when the connection breaks."""
        generating = _streams.Generating(request)
        deadline = self._deadline(timeout_s)
        call = self.generation.Generate(request, timeout=remaining_s(deadline), metadata=self.metadata(metadata))
        try:
            async for reply in call:
                yield generating.receive(reply)
            generating.end()
        except aio.AioRpcError as error:
            for generation in generating.give_up(absence_of(call_failed(error))):
                yield generation
        finally:
            call.cancel()

    async def get_model(self, name: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> GetModelResponse:
        """Versions and capabilities of a model; "" for the default one."""
        return await self._unary(self.model.GetModel, GetModelRequest(name=name), timeout_s, metadata)

    async def list_versions(self, name: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> ListVersionsResponse:
        """The versions in memory and the active one."""
        return await self._unary(self.model.ListVersions, ListVersionsRequest(name=name), timeout_s, metadata)

    async def load_version(
        self, version: int, path: str, *, name: str = "", timeout_s: float | None = None, metadata: Metadata = None
    ) -> LoadVersionResponse:
        """Read a version from a directory the server can read; it is not active yet."""
        request = LoadVersionRequest(name=name, version=version, path=path)
        return await self._unary(self.model.LoadVersion, request, timeout_s, metadata)

    async def activate_version(
        self,
        version: int,
        *,
        name: str = "",
        expected_current: int | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> ActivateVersionResponse:
        """Switch to a loaded version; another active version than expected raises CallFailed (FAILED_PRECONDITION)."""
        request = ActivateVersionRequest(name=name, version=version, expected_current=expected_current)
        return await self._unary(self.model.ActivateVersion, request, timeout_s, metadata)

    async def unload_version(
        self, version: int, *, name: str = "", timeout_s: float | None = None, metadata: Metadata = None
    ) -> UnloadVersionResponse:
        """Free a version that is not active."""
        request = UnloadVersionRequest(name=name, version=version)
        return await self._unary(self.model.UnloadVersion, request, timeout_s, metadata)

    async def evaluate(
        self,
        samples: Iterable[Sample],
        *,
        program: str = "",
        program_fingerprint: str = "",
        pins: Mapping[str, Model] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> Evaluations:
        """Run a reward program over samples, in order; samples of one group id go together. pins: signal -> model that must answer."""
        batch = _batches.evaluate(samples, self._chunk_items, evaluate_options(program, program_fingerprint, pins))
        return await self._batch(self.mesh.Evaluate, batch, timeout_s, metadata)

    def stream_evaluate(
        self,
        groups: Iterable[Sequence[Sample]] | AsyncIterable[Sequence[Sample]],
        *,
        program: str = "",
        program_fingerprint: str = "",
        pins: Mapping[str, Model] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> AsyncIterator[Evaluations]:
        """Run a reward program over whole groups as they come; one result a group, in any order of groups."""
        stream = _streams.evaluate_stream(evaluate_options(program, program_fingerprint, pins))
        return self._stream(self.mesh.StreamEvaluate, stream, groups, timeout_s, metadata)

    async def describe_program(
        self, program: str = "", *, timeout_s: float | None = None, metadata: Metadata = None
    ) -> DescribeProgramResponse:
        """A program's text, signals and scale; "" for the only one."""
        return await self._unary(self.mesh.DescribeProgram, DescribeProgramRequest(program=program), timeout_s, metadata)

    async def list_programs(self, *, timeout_s: float | None = None, metadata: Metadata = None) -> list[str]:
        """Names of the gateway's programs."""
        return list((await self._unary(self.mesh.ListPrograms, ListProgramsRequest(), timeout_s, metadata)).programs)

    async def select_best(
        self,
        samples: Iterable[Sample],
        *,
        program: str = "",
        program_fingerprint: str = "",
        pins: Mapping[str, Model] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> Selection:
        """Best of n: evaluate answers to one prompt and name the winner."""
        batch = _batches.select_best(samples, evaluate_options(program, program_fingerprint, pins))
        return await self._batch(self.mesh.SelectBest, batch, timeout_s, metadata)

    async def health(self, service: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> HealthStatus:
        """Ask a server for its health; "" for the whole server. No answer raises CallFailed."""
        # On a channel of its own: the client's own one does not let calls through to a server that is not serving.
        async with open_aio_channel(self.target, health_options(self._channel_options)) as channel:
            check: aio.UnaryUnaryMultiCallable[HealthRequest, HealthReply] = channel.unary_unary(
                HEALTH_METHOD, HealthRequest.SerializeToString, HealthReply.FromString
            )
            try:
                return health_status(await self._unary(check, HealthRequest(value=service), timeout_s, metadata))
            except CallFailed as failure:
                if failure.code is grpc.StatusCode.NOT_FOUND:
                    return "SERVICE_UNKNOWN"
                raise

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
        source = iterate(items)

        async def requests() -> AsyncGenerator[Q, None]:
            yield stream.first
            async for item in source:
                yield stream.send(item)

        running = call(timeout=timeout_s, metadata=self.metadata(metadata))
        try:
            async with aclosing(converse(running, requests())) as replies:
                async for reply in replies:
                    yield stream.receive(reply)
            stream.end()
        except StreamBroken as broken:
            absence = absence_of(broken.failure)
            for result in stream.give_up(absence):
                yield result
            async for item in source:
                stream.send(item)
                for result in stream.give_up(absence):
                    yield result


async def _send(call: "aio.UnaryUnaryMultiCallable[Q, A]", request: Q, deadline: float | None, metadata: tuple[tuple[str, str], ...]) -> A:
    try:
        return await call(request, timeout=remaining_s(deadline), metadata=metadata)
    except aio.AioRpcError as error:
        raise call_failed(error) from error
