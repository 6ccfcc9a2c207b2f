"""Toy judges on real sockets whose verdicts can be read off the answers, and panels over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rewardmesh.client import AsyncClient, pack_floats, pair, sample
from rewardmesh.panel import PanelConfig, create_server
from rewardmesh.serving import Server, ServerConfig
from rewardmesh.serving.rankings import mean_wins
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc

JUDGE, MODEL = "rewardmesh.v1.JudgeService", "rewardmesh.v1.ModelService"
Toys = Callable[..., Awaitable["Toy"]]
Panels = Callable[..., Awaitable[AsyncClient]]


class Toy(rpc.JudgeServiceServicer):
    """Reads its verdicts from texts of "name=number" pairs: the number of its own name is how good it finds an answer.

    P(a better) = 1/2 + (a - b) / 2, a grade's total is the number itself; "?" is a retryable absence. `bias` is added for whatever is
    shown first, `hook` runs before every answer, `prefer` and `criticise` replace its verdicts. A judge of several versions reads the
    number of "name" + version.
    """

    def __init__(self, name: str, *, versions: tuple[int, ...] = (1,), bias: float = 0.0, cost: float = 0.0) -> None:
        self.name = name
        self.versions = versions
        self.bias = bias
        self.cost = cost
        self.cached = False
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.asked, self.cancelled = asyncio.Event(), asyncio.Event()
        self.hook: Callable[[Any, Any], Awaitable[None]] | None = None
        self.prefer: Callable[[api.Pair], float] | None = None
        self.criticise: Callable[[pb.Sample], api.Critique | pb.Absence] = lambda item: api.Critique(
            text=f"{name} on {item.completion.text}"
        )
        self.address = ""
        self.server: Server | None = None

    async def start(self, port: int = 0) -> None:
        server = Server(ServerConfig(port=port, drain_seconds=0.5), "toy")
        server.add_service(JUDGE, rpc.add_JudgeServiceServicer_to_server, self)
        server.add_service(MODEL, model_service_pb2_grpc.add_ModelServiceServicer_to_server, _Versions(self))  # type: ignore[abstract]
        await server.start()
        self.address, self.server = server.address, server

    async def stop(self) -> None:
        if self.server:
            await self.server.stop()

    async def Compare(self, request: api.CompareRequest, context: Any) -> api.CompareResponse:
        await self._seen(request, context)
        reply = api.CompareResponse()
        for item in request.pairs:
            outcome = reply.outcomes.add(pair_id=item.id, provenance=self._provenance(request.model))
            p = self._p(item, item.a.text, item.b.text, request.model)
            if isinstance(p, pb.Absence):
                outcome.absence.CopyFrom(p)
            elif request.orders == api.COMPARE_ORDERS_AS_GIVEN:
                outcome.preference.CopyFrom(api.Preference(p_a=p + self.bias, p_a_as_given=p + self.bias, agreement=1.0))
            else:
                agreement = 1 - 2 * abs(self.bias)
                verdict = api.Preference(p_a=p, p_a_as_given=p + self.bias, p_a_swapped=p - self.bias, agreement=agreement)
                outcome.preference.CopyFrom(verdict)
            if request.want_rationale and not isinstance(p, pb.Absence):
                outcome.preference.rationales.append("it is so")
        return reply

    async def Rank(self, request: api.RankRequest, context: Any) -> api.RankResponse:
        await self._seen(request, context)
        reply = api.RankResponse()
        for group in request.groups:
            outcome = reply.outcomes.add(group_id=group.id, provenance=self._provenance(request.model))
            texts = [each.text for each in group.completions]
            rows = [[self._p(None, a, b, request.model) for b in texts] for a in texts]
            lost = next((p for row in rows for p in row if isinstance(p, pb.Absence)), None)
            if lost:
                outcome.absence.CopyFrom(lost)
                continue
            scores = mean_wins(np.asarray(rows))
            found = outcome.ranking
            found.order.extend(sorted(range(len(texts)), key=lambda i: -scores[i]))
            found.scores.extend(scores)
            matrix = api.PreferenceMatrix(probabilities=pack_floats(p for row in rows for p in row), size=len(texts))  # type: ignore[misc]
            found.pair_matrix.CopyFrom(matrix)
            found.kendall_w, found.verdicts = 1.0, len(texts) * (len(texts) - 1)
        return reply

    async def Grade(self, request: api.GradeRequest, context: Any) -> api.GradeResponse:
        await self._seen(request, context)
        reply = api.GradeResponse()
        for item in request.samples:
            outcome = reply.outcomes.add(sample_id=item.id, provenance=self._provenance(request.model))
            value = self._value(item.completion.text, request.model)
            if isinstance(value, pb.Absence):
                outcome.absence.CopyFrom(value)
            else:
                grade = api.Grade(criterion_id="good", score=value, max=1.0, p_yes=value)
                outcome.grades.CopyFrom(api.Grades(grades=[grade], total=value))
        return reply

    async def Critique(self, request: api.CritiqueRequest, context: Any) -> api.CritiqueResponse:
        await self._seen(request, context)
        reply = api.CritiqueResponse()
        for item in request.samples:
            outcome = reply.outcomes.add(sample_id=item.id, provenance=self._provenance(request.model))
            found = self.criticise(item)
            (outcome.absence if isinstance(found, pb.Absence) else outcome.critique).CopyFrom(found)  # type: ignore[arg-type]
        return reply

    @property
    def items(self) -> list[str]:
        """Ids of all items it was asked about."""
        fields = ("pairs", "groups", "samples")
        return [item.id for request in self.requests for name in fields if hasattr(request, name) for item in getattr(request, name)]

    async def _seen(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.asked.set()
        self.metadata.append(dict(context.invocation_metadata()))
        if self.hook:
            try:
                await self.hook(request, context)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    def _key(self, model: pb.ModelRef) -> str:
        return self.name if len(self.versions) == 1 else f"{self.name}{model.version or self.versions[-1]}"

    def _value(self, text: str, model: pb.ModelRef) -> float | pb.Absence:
        found = dict(part.split("=") for part in text.split())[self._key(model)]
        return absence(pb.ABSENCE_REASON_OVERLOADED, "busy", retryable=True, retry_after_s=1.5) if found == "?" else float(found)

    def _p(self, item: api.Pair | None, a: str, b: str, model: pb.ModelRef) -> float | pb.Absence:
        if self.prefer and item is not None:
            return self.prefer(item)
        one, other = self._value(a, model), self._value(b, model)
        if isinstance(one, pb.Absence) or isinstance(other, pb.Absence):
            return one if isinstance(one, pb.Absence) else other
        return 0.5 + (one - other) / 2

    def _provenance(self, model: pb.ModelRef) -> pb.Provenance:
        named = pb.ModelRef(name=self.name, version=model.version or self.versions[-1], fingerprint=f"f-{self._key(model)}")
        found = pb.Provenance(service=JUDGE, model=named, tokens_read=10, tokens_computed=7, cached=self.cached)
        if self.cost:
            found.cost_usd = self.cost
        return found


class _Versions(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    async def GetModel(self, request: model_service_pb2.GetModelRequest, context: Any) -> model_service_pb2.GetModelResponse:
        versions = [pb.ModelRef(name=self._toy.name, version=version) for version in self._toy.versions]
        return model_service_pb2.GetModelResponse(active=versions[-1], versions=versions)


def duel(identifier: str, **p: float | str) -> api.Pair:
    """A pair on which each judge says P(a better) = p."""
    said = {name: value if isinstance(value, str) else 2 * value - 1 for name, value in p.items()}
    return pair(identifier, "?", " ".join(f"{name}={value}" for name, value in said.items()), " ".join(f"{name}=0" for name in said))


def answer_of(identifier: str, **totals: float | str) -> pb.Sample:
    """A sample that each judge grades with its own total."""
    return sample(identifier, "?", text_of(**totals))


def text_of(**values: float | str) -> str:
    """The answer that each judge values so."""
    return " ".join(f"{name}={value}" for name, value in values.items())


@pytest.fixture
async def toys() -> AsyncIterator[Toys]:
    """toys(name, **settings) starts a toy judge."""
    started: list[Toy] = []

    async def start(name: str, **settings: Any) -> Toy:
        toy = Toy(name, **settings)
        await toy.start()
        started.append(toy)
        return toy

    yield start
    for toy in started:
        await toy.stop()


@pytest.fixture
async def panels(tmp_path: Path) -> AsyncIterator[Panels]:
    """panels({member: address or fields}, **file, config={...}) starts a panel and gives a client of it."""
    async with AsyncExitStack() as stack:

        async def start(
            members: Mapping[str, Any], *, name: str = "panel", config: Mapping[str, Any] | None = None, **rules: Any
        ) -> AsyncClient:
            listed = {member: {"address": given} if isinstance(given, str) else given for member, given in members.items()}
            path = tmp_path / f"{name}.yaml"
            path.write_text(yaml.safe_dump({"name": name, "members": listed, **rules}, sort_keys=False))
            server = await create_server(PanelConfig(panel=path, drain_seconds=0.5, health_seconds=0.05, **(config or {})))
            await server.start()
            stack.push_async_callback(server.stop)
            return await stack.enter_async_context(AsyncClient(server.address))

        yield start
