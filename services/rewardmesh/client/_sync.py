"""The blocking client: the same methods as `AsyncClient`, for scripts and threads.

with Client("127.0.0.1:50051") as client:
    scores = client.score([sample("a", "What is 2 + 2?", "4")])
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import grpc

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
from rewardmesh.client.channel import ChannelOptions, open_channel
from rewardmesh.client.errors import CallFailed, absence_of, call_failed
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Absence, Evaluations, Generation, Grades, Preference, Score, Selection, TokenScores, Verdict
from rewardmesh.v1 import model_service_pb2 as models
from rewardmesh.v1.common_pb2 import ModelRef, Sample
from rewardmesh.v1.generation_service_pb2 import GenerateRequest
from rewardmesh.v1.generation_service_pb2_grpc import GenerationServiceStub
from rewardmesh.v1.judge_service_pb2 import Pair
from rewardmesh.v1.judge_service_pb2_grpc import JudgeServiceStub
from rewardmesh.v1.log_prob_service_pb2 import LogProbWants, TokenSequence
from rewardmesh.v1.log_prob_service_pb2_grpc import LogProbServiceStub
from rewardmesh.v1.mesh_service_pb2 import DescribeProgramRequest, DescribeProgramResponse, ListProgramsRequest
from rewardmesh.v1.mesh_service_pb2_grpc import MeshServiceStub
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


class Client(ClientBase):
    """Calls any server of the mesh; threads may share it (settings: see `ClientBase`)."""

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

    def compare(
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
        return self._batch(self.judge.Compare, batch, timeout_s, metadata)

    def grade(
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
        return self._batch(self.judge.Grade, batch, timeout_s, metadata)

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

    def list_verifiers(self, *, timeout_s: float | None = None, metadata: Metadata = None) -> list[VerifierInfo]:
        """The verifiers of the server, by name."""
        return list((self._unary(self.verifier.ListVerifiers, ListVerifiersRequest(), timeout_s, metadata)).verifiers)

    def score_tokens(
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
        return self._batch(self.log_prob.ScoreTokens, batch, timeout_s, metadata)

    def generate(self, request: GenerateRequest, *, timeout_s: float | None = None, metadata: Metadata = None) -> Iterator[Generation]:
        """Sample completions, each as it ends, in any order; n for each prompt, the missing ones as absences when the connection breaks."""
        generating = _streams.Generating(request)
        deadline = self._deadline(timeout_s)
        call = self.generation.Generate(request, timeout=remaining_s(deadline), metadata=self.metadata(metadata))
        try:
            for reply in call:
                yield generating.receive(reply)
            generating.end()
        except grpc.RpcError as error:
            yield from generating.give_up(absence_of(call_failed(error)))
        finally:
            call.cancel()

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
        requests = _Requests(stream, items)
        running = call(requests, timeout=timeout_s, metadata=self.metadata(metadata))
        try:
            for reply in running:
                yield requests.receive(reply)
            stream.end()
        except grpc.RpcError as error:
            left = requests.stop()
            if requests.trouble is not None:
                raise requests.trouble from None
            absence = absence_of(call_failed(error))
            yield from stream.give_up(absence)
            for item in left:
                stream.send(item)
                yield from stream.give_up(absence)
        finally:
            requests.stopped = True
            running.cancel()


class _Requests(Iterator[Q]):
    """The requests of a stream, drawn by a thread of grpc's, which reports their errors as UNKNOWN: `trouble` keeps the real one."""

    def __init__(self, stream: _streams.Stream[T, Q, A, R], items: Iterable[T]) -> None:
        self._stream: _streams.Stream[Any, Q, Any, Any] = stream
        self._source = iter(items)
        self._lock = threading.Lock()
        self._first = True
        self.stopped = False
        self.trouble: Exception | None = None

    def __next__(self) -> Q:
        with self._lock:
            if self.stopped:
                raise StopIteration
            if self._first:
                self._first = False
                return self._stream.first
            try:
                return self._stream.send(next(self._source))
            except StopIteration:
                raise
            except Exception as error:
                self.trouble = error
                raise

    def receive(self, reply: Any) -> Any:
        return self._stream.receive(reply)

    def stop(self) -> Iterator[Any]:
        """Draw no more for the call, wait for the item being drawn, and return what is left."""
        with self._lock:
            self.stopped = True
        return self._source


def _send(call: "grpc.UnaryUnaryMultiCallable[Q, A]", request: Q, deadline: float | None, metadata: tuple[tuple[str, str], ...]) -> A:
    try:
        return call(request, timeout=remaining_s(deadline), metadata=metadata)
    except grpc.RpcError as error:
        raise call_failed(error) from error
