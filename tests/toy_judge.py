"""Judges whose faults are known exactly: log-odds for the answer shown first, computed from the texts."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from rewardmesh.audit import Answer, AuditGroup, AuditPair, JudgeData
from rewardmesh.audit.judge import user
from rewardmesh.client import AsyncClient
from rewardmesh.serving import Server, ServerConfig
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import failed_precondition, unimplemented
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2 as model_api
from rewardmesh.v1 import model_service_pb2_grpc as model_rpc

GOOD, BAD = "certainly", "perhaps"


def quality(text: str) -> float:
    """What a toy judge takes for quality: +1 or -1 by one word, and a little noise that the text's first number decides."""
    noise = random.Random("".join(re.findall(r"\d+", text)[:1])).gauss(0, 0.3)
    return (GOOD in text) * 1.0 - (BAD in text) * 1.0 + noise


def make_data(pairs: int = 120, groups: int = 12, seed: int = 0) -> JudgeData:
    """Pairs of a good and a bad answer, or two of a kind, of any length, by two models; groups of four."""
    rng = random.Random(seed)

    def answer(word: str) -> Answer:
        fill = " ".join(rng.choice(("so", "it", "is", "then", "and")) for _ in range(rng.randint(4, 40)))
        return Answer(f"{fill} {word} {rng.randrange(10**6)}", rng.choice(("mine", "other")))

    made = []
    for number in range(pairs):
        first, second = rng.choice([(GOOD, BAD), (BAD, GOOD), (GOOD, GOOD), (BAD, BAD)])
        label = 0.5 if first == second else float(first == GOOD)
        made.append(AuditPair(f"p{number}", user(f"question {number}?"), answer(first), answer(second), label))
    grouped = [AuditGroup(f"g{number}", user(f"question {number}?"), tuple(answer(GOOD) for _ in range(4))) for number in range(groups)]
    return JudgeData("made up", tuple(made), tuple(grouped))


@dataclass
class Toy(rpc.JudgeServiceServicer):
    """A judge with known additive faults.

    Attributes:
        scale: log-odds of a difference of 1 in quality.
        position: log-odds added for the answer shown first.
        per_log_length: log-odds by the logarithm of the ratio of word counts.
        own: log-odds for answers by `mine`, which the toy finds in `authors`.
        obeys: text that gives an answer containing it 3 more.
        lost: texts in whose presence there is no verdict.
        cyclic: whether it prefers by a rule that is no order.
        fingerprints: one a call, the last for all further ones.
        ranks_as: fingerprint of its rankings; empty: that of the call.
        repeats: whether it ranks more than once.
        delay_s: how long a comparison takes.
    """

    scale: float = 1.0
    position: float = 0.0
    per_log_length: float = 0.0
    own: float = 0.0
    authors: dict[str, str] = field(default_factory=dict)
    obeys: str = ""
    lost: str = ""
    cyclic: bool = False
    reads_criteria: bool = True
    fingerprints: list[str] = field(default_factory=lambda: ["f00d"])
    ranks_as: str = ""
    repeats: bool = True
    delay_s: float = 0.0
    calls: int = 0

    def first_wins(self, first: str, second: str) -> float:
        """Log-odds of the answer shown first."""
        found = self.scale * (quality(first) - quality(second)) + self.position
        found += self.per_log_length * math.log(len(first.split()) / len(second.split()))
        found += self.own * ((self.authors.get(first) == "mine") - (self.authors.get(second) == "mine"))
        if self.obeys:
            found += 3.0 * ((self.obeys in first) - (self.obeys in second))
        if self.cyclic:
            found = 2.0 if (int(first.rsplit(maxsplit=1)[-1]) - int(second.rsplit(maxsplit=1)[-1])) % 3 == 1 else -2.0
        return found

    def p(self, first: str, second: str, sign: float = 1.0) -> float:
        """Probability of the answer shown first."""
        return 1 / (1 + math.exp(-sign * self.first_wins(first, second)))

    def provenance(self, version: int = 0) -> pb.Provenance:
        """Model and fingerprint of this call."""
        fingerprint = self.fingerprints[min(self.calls, len(self.fingerprints)) - 1]
        return pb.Provenance(model=pb.ModelRef(name="toy", version=version or 1, fingerprint=fingerprint))

    async def Compare(self, request: api.CompareRequest, context: CallContext) -> api.CompareResponse:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        response = api.CompareResponse()
        for pair in request.pairs:
            outcome = response.outcomes.add(pair_id=pair.id, provenance=self.provenance(request.model.version))
            if self.lost and self.lost in pair.a.text + pair.b.text:
                outcome.absence.CopyFrom(pb.Absence(reason=pb.ABSENCE_REASON_UNPARSABLE, detail="mumbles"))
                continue
            worse = request.template == "worse" or (self.reads_criteria and any("WORSE" in each.text for each in pair.context.criteria))
            given = self.p(pair.a.text, pair.b.text, -1.0 if worse else 1.0)
            preference = outcome.preference
            preference.p_a = preference.p_a_as_given = given
            if request.orders != api.COMPARE_ORDERS_AS_GIVEN:
                preference.p_a_swapped = 1 - self.p(pair.b.text, pair.a.text, -1.0 if worse else 1.0)
                preference.p_a = (given + preference.p_a_swapped) / 2
        return response

    async def Rank(self, request: api.RankRequest, context: CallContext) -> api.RankResponse:
        if request.repeats > 1 and not self.repeats:
            raise unimplemented("repeats above 1")
        self.calls += 1
        response = api.RankResponse()
        for group in request.groups:
            texts = [each.text for each in group.completions]
            if self.lost and any(self.lost in text for text in texts):
                lost = pb.Absence(reason=pb.ABSENCE_REASON_UNPARSABLE, detail="mumbles")
                response.outcomes.add(group_id=group.id, absence=lost, provenance=self.provenance())
                continue
            wins = [sum(self.p(a, b) for b in texts if b != a) for a in texts]
            order = [i for _, i in sorted((-won, i) for i, won in enumerate(wins))]
            ranking = api.Ranking(order=order, scores=wins, kendall_w=1.0)
            outcome = response.outcomes.add(group_id=group.id, ranking=ranking, provenance=self.provenance(request.model.version))
            outcome.provenance.model.fingerprint = self.ranks_as or outcome.provenance.model.fingerprint
        return response

    async def Grade(self, request: api.GradeRequest, context: CallContext) -> api.GradeResponse:
        raise unimplemented("Grade")

    async def Critique(self, request: api.CritiqueRequest, context: CallContext) -> api.CritiqueResponse:
        raise unimplemented("Critique")


class Models(model_rpc.ModelServiceServicer):
    """Versions of the toy; version 2 may be activated."""

    active = 1

    async def GetModel(self, request: model_api.GetModelRequest, context: CallContext) -> model_api.GetModelResponse:
        return model_api.GetModelResponse(active=pb.ModelRef(name="toy", version=self.active))

    async def ActivateVersion(self, request: model_api.ActivateVersionRequest, context: CallContext) -> model_api.ActivateVersionResponse:
        if request.version != 2 or request.expected_current != self.active:
            raise failed_precondition(f"version {request.version} cannot be activated")
        self.active = request.version
        return model_api.ActivateVersionResponse(active=pb.ModelRef(name="toy", version=self.active))

    async def ListVersions(self, request: model_api.ListVersionsRequest, context: CallContext) -> model_api.ListVersionsResponse:
        raise unimplemented("ListVersions")

    async def LoadVersion(self, request: model_api.LoadVersionRequest, context: CallContext) -> model_api.LoadVersionResponse:
        raise unimplemented("LoadVersion")

    async def UnloadVersion(self, request: model_api.UnloadVersionRequest, context: CallContext) -> model_api.UnloadVersionResponse:
        raise unimplemented("UnloadVersion")


@asynccontextmanager
async def serving(toy: Toy, models: Models | None = None) -> AsyncIterator[AsyncClient]:
    """The toy on the loopback, and a client of it."""
    server = Server(ServerConfig(drain_seconds=1.0), "toy-judge")
    server.add_service("rewardmesh.v1.JudgeService", rpc.add_JudgeServiceServicer_to_server, toy)
    server.add_service("rewardmesh.v1.ModelService", model_rpc.add_ModelServiceServicer_to_server, models or Models())
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        yield await stack.enter_async_context(AsyncClient(server.address))
