"""The blocking client: the same methods as `AsyncClient`, for scripts and threads.

with Client("127.0.0.1:50051") as client:
    scores = client.score([sample("a", "What is 2 + 2?", "4")])
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc

from rewardmesh.client import _batches, _streams, _verify_stream
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
from rewardmesh.client._sync_judge import BlockingJudge
from rewardmesh.client._sync_log_prob import BlockingLogProb
from rewardmesh.client.channel import open_channel
from rewardmesh.client.errors import CallFailed, absence_of, call_failed
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Evaluations, Generation, Score, Selection, Verdict
from rewardmesh.v1 import model_service_pb2 as models
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.generation_service_pb2 import GenerateRequest
from rewardmesh.v1.mesh_service_pb2 import DescribeProgramRequest, DescribeProgramResponse, ListProgramsRequest
from rewardmesh.v1.reward_service_pb2 import ScoreOptions
from rewardmesh.v1.verifier_service_pb2 import ListVerifiersRequest, VerifierInfo


class Client(BlockingJudge, BlockingLogProb):
    """Calls any server of the mesh; threads may share it (settings: see `ClientBase`)."""

    def score(
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
        return self._batch(self.reward.Score, batch, timeout_s, metadata)

    def stream_scores(
        self,
        samples: Iterable[Sample],
        *,
        model: Model = None,
        options: ScoreOptions | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> Iterator[Score]:
        """Score samples as they come; one result a sample, in any order. When the connection breaks, what is left becomes absences."""
        return self._stream(self.reward.StreamScores, _streams.score_stream(options, model), samples, timeout_s, metadata)

    def verify(
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
        return self._batch(self.verifier.Verify, batch, timeout_s, metadata)

    def stream_verify(
        self,
        samples: Iterable[Sample],
        verifier: str,
        *,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> Iterator[Verdict]:
        """Check samples as they come, many a message; one result a sample, in any order."""
        return _verify_stream.stream_verify(self, samples, verifier, options=options, timeout_s=timeout_s, metadata=metadata)

    def list_verifiers(self, *, timeout_s: float | None = None, metadata: Metadata = None) -> list[VerifierInfo]:
        """The verifiers of the server, by name."""
        return list((self._unary(self.verifier.ListVerifiers, ListVerifiersRequest(), timeout_s, metadata)).verifiers)

    def generate(self, request: GenerateRequest, *, timeout_s: float | None = None, metadata: Metadata = None) -> Iterator[Generation]:
        """Sample completions, each as it ends, in any order; n for each prompt, the missing ones as absences when the connection breaks."""
        generating = _streams.Generating(request)
        deadline = self._deadline(timeout_s)
        resumes, sent = Resumes(self.channel, deadline), self.metadata(metadata)
        while True:
            call = self.generation.Generate(request, timeout=remaining_s(deadline), metadata=sent)
            try:
                for reply in call:
                    yield generating.receive(reply)
                generating.end()
                return
            except grpc.RpcError as error:
                failure = call_failed(error)
                wait_s = None if generating.begun else resumes.wait_s(failure, False)
            finally:
                call.cancel()
            if wait_s is None:
                yield from generating.give_up(absence_of(failure))
                return
            time.sleep(wait_s)

    def get_model(self, name: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> models.GetModelResponse:
        """Versions and capabilities of a model; "" for the default one."""
        return self._unary(self.model.GetModel, models.GetModelRequest(name=name), timeout_s, metadata)

    def list_versions(self, name: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> models.ListVersionsResponse:
        """The versions in memory and the active one."""
        return self._unary(self.model.ListVersions, models.ListVersionsRequest(name=name), timeout_s, metadata)

    def load_version(
        self, version: int, path: str, *, name: str = "", timeout_s: float | None = None, metadata: Metadata = None
    ) -> models.LoadVersionResponse:
        """Read a version from a directory the server can read; it is not active yet."""
        request = models.LoadVersionRequest(name=name, version=version, path=path)
        return self._unary(self.model.LoadVersion, request, timeout_s, metadata)

    def activate_version(
        self,
        version: int,
        *,
        name: str = "",
        expected_current: int | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> models.ActivateVersionResponse:
        """Switch to a loaded version; another active version than expected raises CallFailed (FAILED_PRECONDITION)."""
        request = models.ActivateVersionRequest(name=name, version=version, expected_current=expected_current)
        return self._unary(self.model.ActivateVersion, request, timeout_s, metadata)

    def unload_version(
        self, version: int, *, name: str = "", timeout_s: float | None = None, metadata: Metadata = None
    ) -> models.UnloadVersionResponse:
        """Free a version that is not active."""
        request = models.UnloadVersionRequest(name=name, version=version)
        return self._unary(self.model.UnloadVersion, request, timeout_s, metadata)

    def evaluate(
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
        return self._batch(self.mesh.Evaluate, batch, timeout_s, metadata)

    def stream_evaluate(
        self,
        groups: Iterable[Sequence[Sample]],
        *,
        program: str = "",
        program_fingerprint: str = "",
        pins: Mapping[str, Model] | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> Iterator[Evaluations]:
        """Run a reward program over whole groups as they come; one result a group, in any order of groups."""
        stream = _streams.evaluate_stream(evaluate_options(program, program_fingerprint, pins))
        return self._stream(self.mesh.StreamEvaluate, stream, groups, timeout_s, metadata)

    def describe_program(self, program: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> DescribeProgramResponse:
        """A program's text, signals and scale; "" for the only one."""
        return self._unary(self.mesh.DescribeProgram, DescribeProgramRequest(program=program), timeout_s, metadata)

    def list_programs(self, *, timeout_s: float | None = None, metadata: Metadata = None) -> list[str]:
        """Names of the gateway's programs."""
        return list((self._unary(self.mesh.ListPrograms, ListProgramsRequest(), timeout_s, metadata)).programs)

    def select_best(
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
        return self._batch(self.mesh.SelectBest, batch, timeout_s, metadata)

    def health(self, service: str = "", *, timeout_s: float | None = None, metadata: Metadata = None) -> HealthStatus:
        """Ask a server for its health; "" for the whole server. No answer raises CallFailed."""
        # On a channel of its own: the client's own one does not let calls through to a server that is not serving.
        with open_channel(self.target, health_options(self._channel_options)) as channel:
            check: grpc.UnaryUnaryMultiCallable[HealthRequest, HealthReply] = channel.unary_unary(
                HEALTH_METHOD, HealthRequest.SerializeToString, HealthReply.FromString
            )
            try:
                return health_status(self._unary(check, HealthRequest(value=service), timeout_s, metadata))
            except CallFailed as failure:
                if failure.code is grpc.StatusCode.NOT_FOUND:
                    return "SERVICE_UNKNOWN"
                raise
