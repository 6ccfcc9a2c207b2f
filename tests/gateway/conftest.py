"""Fake backends on real sockets (the process edge of a gateway), and gateways over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from rewardmesh.client import pack_floats, sample
from rewardmesh.gateway import Config, create_server
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as judge
from rewardmesh.v1 import judge_service_pb2_grpc, reward_service_pb2_grpc, verifier_service_pb2_grpc
from rewardmesh.v1 import reward_service_pb2 as reward
from rewardmesh.v1 import verifier_service_pb2 as verifier
from rewardmesh.v1.mesh_service_pb2_grpc import MeshServiceStub

Hook = Callable[[Any, Any], Awaitable[None]]
Gateway = Callable[..., Awaitable[Any]]


class Backend:
    """A reward, judge and verifier server whose answers are read from the completion.

    A text of "name=number" pairs ("correct=1 helpful=0.3") gives the number asked for by model, verifier or rubric; "name=?" gives
    a retryable absence, "name=!" one that is not. Compare prefers the greater number of the template's name.
    `hook` runs before every answer and may delay or abort it. `version` is the model's version.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.cancelled = 0
        self.version = 1
        self.hook: Hook = self._nothing
        self.server: Any = None
        self.address = ""

    async def start(self, port: int = 0) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        reward_service_pb2_grpc.add_RewardServiceServicer_to_server(_Reward(self), self.server)  # type: ignore[abstract]
        judge_service_pb2_grpc.add_JudgeServiceServicer_to_server(_Judge(self), self.server)
        verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server(_Verifier(self), self.server)  # type: ignore[abstract]
        self.address = f"127.0.0.1:{self.server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0)
            self.server = None

    async def seen(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            await self.hook(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @staticmethod
    async def _nothing(request: Any, context: Any) -> None:
        return None

    def provenance(self, name: str) -> pb.Provenance:
        return pb.Provenance(service="fake", model=pb.ModelRef(name=name, version=self.version))


def number(text: str, name: str) -> float | pb.Absence:
    """The number of a name in a text of "name=number" pairs."""
    found = dict(part.split("=") for part in text.split())[name]
    if found == "?":
        return absence(pb.ABSENCE_REASON_OVERLOADED, "busy", retryable=True)
    if found == "!":
        return absence(pb.ABSENCE_REASON_UNPARSABLE, "cannot be read")
    return float(found)


class _Reward(reward_service_pb2_grpc.RewardServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def Score(self, request: Any, context: Any) -> Any:
        await self.backend.seen(request, context)
        response = reward.ScoreResponse()
        for item in request.samples:
            outcome = response.outcomes.add(sample_id=item.id, provenance=self.backend.provenance(request.options.model.name))
            value = number(item.completion.text, request.options.model.name)
            if isinstance(value, pb.Absence):
                outcome.absence.CopyFrom(value)
            else:
                outcome.reward.CopyFrom(pb.Reward(value=value, objectives=[pb.Objective(name="half", value=value / 2)]))
        return response


class _Verifier(verifier_service_pb2_grpc.VerifierServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def Verify(self, request: Any, context: Any) -> Any:
        await self.backend.seen(request, context)
        response = verifier.VerifyResponse()
        for item in request.samples:
            outcome = response.outcomes.add(sample_id=item.id)
            value = number(item.completion.text, request.verifier)
            if isinstance(value, pb.Absence):
                outcome.absence.CopyFrom(value)
            else:
                where = verifier.Location(line=1, span=pb.Span(start=0, end=3))
                outcome.verdict.CopyFrom(verifier.Verdict(score=value, evidence="compared", location=where))
        return response


class _Judge(judge_service_pb2_grpc.JudgeServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def Grade(self, request: Any, context: Any) -> Any:
        await self.backend.seen(request, context)
        response = judge.GradeResponse()
        for item in request.samples:
            outcome = response.outcomes.add(sample_id=item.id, provenance=self.backend.provenance("judge"))
            value = number(item.completion.text, request.rubric)
            if isinstance(value, pb.Absence):
                outcome.absence.CopyFrom(value)
            else:
                outcome.grades.total = value
        return response

    async def Compare(self, request: Any, context: Any) -> Any:
        await self.backend.seen(request, context)
        response = judge.CompareResponse()
        for pair in request.pairs:
            outcome = response.outcomes.add(pair_id=pair.id, provenance=self.backend.provenance("judge"))
            a, b = number(pair.a.text, request.template), number(pair.b.text, request.template)
            if isinstance(a, pb.Absence):
                outcome.absence.CopyFrom(a)
                continue
            if isinstance(b, pb.Absence):
                outcome.absence.CopyFrom(b)
                continue
            p = 0.5 if a == b else 0.75 if a > b else 0.25
            outcome.preference.CopyFrom(
                judge.Preference(p_a=p, p_a_as_given=p + 0.125, p_a_swapped=p - 0.125, p_tie=float(a == b), agreement=0.75)
            )
        return response

    async def Rank(self, request: Any, context: Any) -> Any:
        await self.backend.seen(request, context)
        response = judge.RankResponse()
        for group in request.groups:
            outcome = response.outcomes.add(group_id=group.id, provenance=self.backend.provenance("judge"))
            found = [number(completion.text, request.template) for completion in group.completions]
            values = [value for value in found if isinstance(value, float)]
            for lost in found:
                if isinstance(lost, pb.Absence):
                    outcome.absence.CopyFrom(lost)
            if len(values) < len(found):
                continue
            matrix = [0.5 if a == b else float(a > b) for a in values for b in values]
            outcome.ranking.CopyFrom(
                judge.Ranking(scores=values, pair_matrix=judge.PreferenceMatrix(probabilities=pack_floats(matrix), size=len(values)))
            )
        return response

    async def Critique(self, request: Any, context: Any) -> Any:
        await self.backend.seen(request, context)
        response = judge.CritiqueResponse()
        for item in request.samples:
            outcome = response.outcomes.add(sample_id=item.id, provenance=self.backend.provenance("judge"))
            value = number(item.completion.text, request.template)
            if isinstance(value, pb.Absence):
                outcome.absence.CopyFrom(value)
                continue
            outcome.critique.text = "a point and a remark"
            outcome.critique.spans.add(start=0, end=4, comment="a remark")
            if value:
                outcome.critique.spans.add(start=0, end=2, value=value, label="point", comment="a point")
            if request.compare_revision:
                outcome.critique.revision_preference.p_a = 0.75
        return response


@pytest.fixture
async def backends() -> AsyncIterator[Callable[..., Awaitable[Backend]]]:
    """Starts backends; stops them afterwards."""
    started: list[Backend] = []

    async def start(hook: Hook | None = None) -> Backend:
        backend = Backend()
        if hook is not None:
            backend.hook = hook
        started.append(backend)
        await backend.start()
        return backend

    yield start
    for backend in started:
        await backend.stop()


@pytest.fixture
async def backend(backends: Callable[..., Awaitable[Backend]]) -> Backend:
    """One backend for all kinds."""
    return await backends()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """gateway(program text or texts, backends, **config): starts a gateway over programs; gives a stub of it."""
    servers: list[Any] = []
    channels: list[Any] = []

    async def start(programs: str | list[str], addresses: dict[str, str], **config: Any) -> Any:
        for index, text in enumerate([programs] if isinstance(programs, str) else programs):
            (tmp_path / f"{index}.yaml").write_text(text)
        server = await create_server(Config(programs=[tmp_path], backends=addresses, replica="gate-0", drain_seconds=1, **config))
        servers.append(server)
        await server.start()
        channel = grpc.aio.insecure_channel(server.address)
        channels.append(channel)
        return MeshServiceStub(channel)

    yield start
    for channel in channels:
        await channel.close()
    for server in servers:
        await server.stop()


@pytest.fixture
def group() -> Callable[..., list[pb.Sample]]:
    """group("a", text, ...): the samples a0, a1, ... of group a."""

    def make(name: str, *texts: str, **tags: str) -> list[pb.Sample]:
        return [sample(f"{name}{i}", f"Question {name}?", text, group_id=name, tags=tags) for i, text in enumerate(texts)]

    return make


@pytest.fixture
def everywhere(backend: Backend) -> dict[str, str]:
    """The one backend's address for every kind."""
    return dict.fromkeys(("reward", "judge", "verifier"), backend.address)
