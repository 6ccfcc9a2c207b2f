"""A judge that follows the principles it knows and no others, on a loopback server; and pairs whose labels prefer the shorter answer."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator

import pytest

from rewardmesh.audit.judge import Answer, AuditPair, user
from rewardmesh.client import AsyncClient
from rewardmesh.serving import Server, ServerConfig
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import not_found, unimplemented
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc

SERVICE = "rewardmesh.v1.JudgeService"
PROPOSED = ("1. Prefer the answer that is shorter.", "- prefer the shorter answer", "Prefer the answer that thanks the person.", "Yes?")


class PrincipledJudge(rpc.JudgeServiceServicer):
    """Adds 2 nats for each principle that it understands, to the shorter, the longer or the thankful answer; without any it is undecided.

    Attributes:
        silent: answers that hold this text get no verdict.
        version: of the model it says it is.
        asked: principles of every pair it judged.
    """

    def __init__(self) -> None:
        self.silent = "SILENT"
        self.version = 1
        self.asked: list[tuple[str, ...]] = []

    async def Compare(self, request: api.CompareRequest, context: CallContext) -> api.CompareResponse:
        """See the proto."""
        if request.template not in ("", "propose-principle"):
            raise not_found("template", request.template, ["propose-principle"])
        reply = api.CompareResponse()
        for number, pair in enumerate(request.pairs):
            outcome = reply.outcomes.add(pair_id=pair.id)
            outcome.provenance.model.CopyFrom(pb.ModelRef(name="toy", version=self.version, fingerprint="f"))
            if self.silent in pair.a.text + pair.b.text:
                outcome.absence.CopyFrom(pb.Absence(reason=pb.ABSENCE_REASON_UNPARSABLE, detail="says nothing"))
                continue
            self.asked.append(tuple(pair.context.principles))
            chance = 1 / (1 + math.exp(-sum(_nats(text, pair.a.text, pair.b.text) for text in pair.context.principles)))
            outcome.preference.CopyFrom(api.Preference(p_a=chance, p_a_as_given=chance, agreement=1.0))
            if request.want_rationale:
                assert len(pair.a.text) < len(pair.b.text), "the labelled answer is shown first"
                outcome.preference.rationales.append(PROPOSED[number % len(PROPOSED)])
        return reply

    async def Rank(self, request: api.RankRequest, context: CallContext) -> api.RankResponse:
        """Not needed here."""
        raise unimplemented("Rank")

    async def Grade(self, request: api.GradeRequest, context: CallContext) -> api.GradeResponse:
        """Not needed here."""
        raise unimplemented("Grade")

    async def Critique(self, request: api.CritiqueRequest, context: CallContext) -> api.CritiqueResponse:
        """Not needed here."""
        raise unimplemented("Critique")


def _nats(principle: str, a: str, b: str) -> float:
    for word, sign in (("shorter", 1), ("longer", -1)):
        if word in principle:
            return 2.0 * sign * ((len(a) < len(b)) - (len(b) < len(a)))
    if "thanks" in principle:
        return 2.0 * (("Thank" in a) - ("Thank" in b))
    return 0.0


@pytest.fixture
def pairs() -> list[AuditPair]:
    """160 pairs: the shorter answer is labelled better, on either side; thanks are on either answer, whichever is better."""
    rng = random.Random(1)
    found = []
    for number in range(160):
        short, long = "It is 4.", "It is 4, because two and two make four."
        thanks = rng.choice(("", "short", "long"))
        short, long = short + " Thanks!" * (thanks == "short"), long + " Thanks!" * (thanks == "long")
        a, b, label = (short, long, 1.0) if rng.random() < 0.5 else (long, short, 0.0)
        found.append(AuditPair(f"pair-{number}", user("2 + 2?"), Answer(a), Answer(b), label))
    return found


@pytest.fixture
async def judge() -> AsyncIterator[tuple[PrincipledJudge, AsyncClient, str]]:
    """The servicer, a client of it and its address."""
    servicer = PrincipledJudge()
    server = Server(ServerConfig(drain_seconds=1.0), "judge")
    server.add_service(SERVICE, rpc.add_JudgeServiceServicer_to_server, servicer)
    await server.start()
    try:
        async with AsyncClient(server.address) as client:
            yield servicer, client, server.address
    finally:
        await server.stop()
