"""The asyncio client: one for any server of the mesh.

    async with AsyncClient("127.0.0.1:50051") as client:
        scores = await client.score([sample("a", "What is 2 + 2?", "4")])

Chunks of a batch that fail for want of luck (after the channel's own retries) become absences of their items;
a wrong request raises CallFailed.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import grpc
from grpc import aio

from rewardmesh.client import _batches, _streams, _verify_stream
from rewardmesh.client._async_judge import AsyncJudge
from rewardmesh.client._async_log_prob import AsyncLogProb
from rewardmesh.client._base import (
    HEALTH_METHOD,
    HealthReply,
    HealthRequest,
    HealthStatus,
    Metadata,
    evaluate_options,
    health_options,
    health_status,
    remaining_s,
)
from rewardmesh.client._resume import Resumes
from rewardmesh.client.channel import open_aio_channel
from rewardmesh.client.errors import CallFailed, absence_of, call_failed
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Evaluations, Generation, Score, Selection, Verdict
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.generation_service_pb2 import GenerateRequest
from rewardmesh.v1.mesh_service_pb2 import DescribeProgramRequest, DescribeProgramResponse, ListProgramsRequest
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
from rewardmesh.v1.reward_service_pb2 import ScoreOptions
from rewardmesh.v1.verifier_service_pb2 import ListVerifiersRequest, VerifierInfo


class AsyncClient(AsyncJudge, AsyncLogProb):
    """Calls any server of the mesh; make it inside the running event loop that will use it (settings: see `ClientBase`).

    Raw stubs for what has no method here: `mesh`, `reward`, `judge`, `verifier`, `log_prob`, `generation`, `model`;
    send `client.metadata()` with them.
    """

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

    def stream_verify(
        self,
        samples: Iterable[Sample] | AsyncIterable[Sample],
        verifier: str,
        *,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> AsyncIterator[Verdict]:
        """Check samples as they come, many a message; one result a sample, in any order."""
        return _verify_stream.stream_verify_async(self, samples, verifier, options=options, timeout_s=timeout_s, metadata=metadata)

    async def list_verifiers(self, *, timeout_s: float | None = None, metadata: Metadata = None) -> list[VerifierInfo]:
        """The verifiers of the server, by name."""
        return list((await self._unary(self.verifier.ListVerifiers, ListVerifiersRequest(), timeout_s, metadata)).verifiers)

    async def generate(
        self, request: GenerateRequest, *, timeout_s: float | None = None, metadata: Metadata = None
    ) -> AsyncIterator[Generation]:
        """Sample completions, each as it ends, in any order; n for each prompt, the missing ones as absences when the connection breaks."""
        generating = _streams.Generating(request)
        deadline = self._deadline(timeout_s)
        resumes, sent = Resumes(self.channel, deadline), self.metadata(metadata)
        while True:
            call = self.generation.Generate(request, timeout=remaining_s(deadline), metadata=sent)
            try:
                async for reply in call:
                    yield generating.receive(reply)
                generating.end()
                return
            except aio.AioRpcError as error:
                failure = call_failed(error)
                wait_s = None if generating.begun else resumes.wait_s(failure, False)
            finally:
                call.cancel()
            if wait_s is None:
                for generation in generating.give_up(absence_of(failure)):
                    yield generation
                return
            await asyncio.sleep(wait_s)

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
