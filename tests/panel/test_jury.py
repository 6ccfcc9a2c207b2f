"""A jury over real sockets: votes, quorum, what a member that is dead, slow or silent does, deadlines, provenance."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from panel.conftest import Panels, Toy, Toys, answer_of, duel, text_of
from rewardmesh.client import AbsenceReason, CallFailed, rank_group
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1.judge_service_pb2_grpc import JudgeServiceStub

NOWHERE = "127.0.0.1:1"


@pytest.fixture
async def three(toys: Toys) -> dict[str, Toy]:
    return {name: await toys(name) for name in ("x", "y", "z")}


def addresses(toys: dict[str, Toy]) -> dict[str, Any]:
    return {name: toy.address for name, toy in toys.items()}


@pytest.mark.parametrize(
    ("rule", "said", "expected", "agreed"),
    [
        ({}, (0.9, 0.8, 0.1), 0.6, 2 / 3),
        ({"vote": "median"}, (0.9, 0.8, 0.1), 0.8, 2 / 3),
        ({"vote": "majority"}, (0.9, 0.8, 0.1), 2 / 3, 2 / 3),
        ({"vote": "majority"}, (0.9, 0.5, 0.1), 0.5, 1 / 3),
        ({"vote": "unanimity"}, (0.9, 0.8, 0.7), 0.8, 1.0),
    ],
)
async def test_votes_on_pairs(
    three: dict[str, Toy], panels: Panels, rule: Any, said: tuple[float, ...], expected: float, agreed: float
) -> None:
    client = await panels(addresses(three), default={"rule": "jury", **rule})
    (found,) = await client.compare([duel("p", **dict(zip("xyz", said, strict=True)))])
    assert found.value == pytest.approx(expected, abs=1e-6)
    verdict = found.message.preference
    assert verdict.votes == 3
    assert verdict.vote_agreement == pytest.approx(agreed)
    assert list(verdict.rationales) == [f"{name}: p={p:.4f}" for name, p in zip("xyz", said, strict=True)]


async def test_a_divided_jury_that_must_be_unanimous_abstains(three: dict[str, Toy], panels: Panels) -> None:
    client = await panels(addresses(three), default={"rule": "jury", "vote": "unanimity"})
    (found,) = await client.compare([duel("p", x=0.9, y=0.8, z=0.4)])
    assert found.absence is not None
    assert (found.absence.reason, found.absence.retryable) == (AbsenceReason.ABSTAINED, False)
    assert "x p=0.90, y p=0.80, z p=0.40" in found.absence.detail
    (graded,) = await client.grade([answer_of("s", x=0.9, y=0.8, z=0.4)])
    assert graded.absence is not None
    group = rank_group("g", "?", [text_of(x=1, y=0, z=0), text_of(x=0, y=1, z=1)])
    assert (await client.rank([group]))[0].absence is not None


async def test_weights_and_position_bias(toys: Toys, panels: Panels) -> None:
    light, heavy = await toys("x", bias=0.2), await toys("y")
    client = await panels({"x": light.address, "y": {"address": heavy.address, "weight": 3}}, default={"rule": "jury"})
    (found,) = await client.compare([duel("p", x=0.6, y=0.2)])
    verdict = found.message.preference
    assert verdict.p_a == pytest.approx((0.6 + 3 * 0.2) / 4, abs=1e-6)
    assert verdict.p_a_as_given == pytest.approx((0.8 + 3 * 0.2) / 4, abs=1e-6)
    assert verdict.p_a_swapped == pytest.approx((0.4 + 3 * 0.2) / 4, abs=1e-6)
    assert verdict.agreement == pytest.approx(0.9, abs=1e-6)
    assert verdict.vote_agreement == 0.75
    (given,) = await client.compare([duel("p", x=0.6, y=0.2)], both_orders=False)
    assert not given.message.preference.HasField("p_a_swapped")


async def test_grades(three: dict[str, Toy], panels: Panels) -> None:
    client = await panels(addresses(three), grade={"rule": "jury", "vote": "approval", "threshold": 0.7})
    (found,) = await client.grade([answer_of("s", x=0.9, y=0.7, z=0.1)])
    assert found.value == pytest.approx(2 / 3)
    (grade,) = found.message.grades.grades
    assert grade.p_yes == pytest.approx(2 / 3)
    assert grade.rationale.splitlines() == ["x: 0.9 of [0, 1]", "y: 0.7 of [0, 1]", "z: 0.1 of [0, 1]"]
    client = await panels(addresses(three), name="mean", default={"rule": "jury"})
    assert (await client.grade([answer_of("s", x=0.9, y=0.7, z=0.2)]))[0].value == pytest.approx(0.6)


@pytest.mark.parametrize(("vote", "order"), [("mean", (1, 0, 2)), ("borda", (0, 1, 2)), ("copeland", (0, 1, 2))])
async def test_social_choice_over_rankings(three: dict[str, Toy], panels: Panels, vote: str, order: tuple[int, ...]) -> None:
    """Two members find answer 0 best by a little, the third finds it worst by much: the Condorcet winner is not the mean's."""
    client = await panels(addresses(three), rank={"rule": "jury", "vote": vote})
    answers = [text_of(x=1.0, y=1.0, z=0.0), text_of(x=0.9, y=0.9, z=1.0), text_of(x=0.0, y=0.0, z=0.5)]
    (found,) = await client.rank([rank_group("g", "?", answers)])
    assert found.order == order
    assert found.message.ranking.cycle_rate == 0
    assert found.message.ranking.verdicts == 18
    assert 0 < found.message.ranking.kendall_w < 1
    if vote == "mean":
        (points,) = await client.rank([rank_group("g", "?", answers)], aggregation="ELO")
        assert points.order == order
        assert sum(points.scores) / 3 == pytest.approx(1000)
    assert {request.aggregation for toy in three.values() for request in toy.requests} == {api.RANK_AGGREGATION_UNSPECIFIED}


async def test_a_members_absence_is_no_vote(three: dict[str, Toy], panels: Panels) -> None:
    client = await panels(addresses(three), default={"rule": "jury"})
    quorate, below = await client.compare([duel("p", x=0.9, y=0.7, z="?"), duel("q", x=0.9, y="?", z="?")])
    assert quorate.value == pytest.approx(0.8, abs=1e-6)
    assert quorate.message.preference.votes == 2
    assert below.absence is not None
    assert (below.absence.reason, below.absence.retryable, below.absence.retry_after_s) == (AbsenceReason.ABSTAINED, True, 1.5)
    assert "1 of 3 members gave a verdict, 2 are needed (y: OVERLOADED: busy; z: OVERLOADED: busy)" in below.absence.detail


async def test_dead_and_slow_members(three: dict[str, Toy], panels: Panels) -> None:
    async def sleep(request: Any, context: Any) -> None:
        await asyncio.sleep(30)

    three["z"].hook = sleep
    members = {**addresses(three), "z": {"address": three["z"].address, "timeout": 0.2}, "dead": {"address": NOWHERE, "timeout": 0.5}}
    client = await panels(members, default={"rule": "jury", "quorum": 2})
    strict = await panels(members, name="strict", default={"rule": "jury", "quorum": 3})
    item = duel("p", x=0.9, y=0.7, z=0.1, dead=0.1)
    (found,), (lost,) = await asyncio.gather(client.compare([item], timeout_s=5), strict.compare([item], timeout_s=5))
    assert found.value == pytest.approx(0.8, abs=1e-6)
    assert lost.absence is not None
    assert lost.absence.reason == AbsenceReason.ABSTAINED
    assert "z: DEADLINE" in lost.absence.detail
    assert "dead: " in lost.absence.detail
    assert await client.health() == "SERVING"


async def test_when_all_members_are_away_it_says_so_and_asks_for_no_calls(panels: Panels) -> None:
    client = await panels({"dead": NOWHERE, "gone": "127.0.0.1:2"}, default={"rule": "jury"})
    assert await client.health() == "NOT_SERVING"
    async with grpc.aio.insecure_channel(client.target) as bare:
        request = api.CompareRequest(pairs=[duel("p", dead=0.9, gone=0.9)])
        (outcome,) = (await JudgeServiceStub(bare).Compare(request, timeout=2)).outcomes
    assert outcome.absence.reason == pb.ABSENCE_REASON_ABSTAINED
    assert outcome.absence.retryable
    assert re.search(r"0 of 2 members gave a verdict, 2 are needed \(dead: \w+: .*; gone: \w+: ", outcome.absence.detail)


async def test_the_calls_deadline_leaves_the_verdicts_that_came(three: dict[str, Toy], panels: Panels) -> None:
    async def sleep(request: Any, context: Any) -> None:
        await asyncio.sleep(30)

    three["z"].hook = sleep
    client = await panels(addresses(three), default={"rule": "jury"})
    (found,) = await client.compare([duel("p", x=0.9, y=0.7, z=0.1)], timeout_s=1)
    assert found.value == pytest.approx(0.8, abs=1e-6)
    await asyncio.wait_for(three["z"].cancelled.wait(), 5)


async def test_a_cancelled_call_cancels_the_members(three: dict[str, Toy], panels: Panels) -> None:
    async def sleep(request: Any, context: Any) -> None:
        await asyncio.sleep(30)

    for toy in three.values():
        toy.hook = sleep
    client = await panels(addresses(three), default={"rule": "jury"})
    call = asyncio.ensure_future(client.compare([duel("p", x=0.9, y=0.7, z=0.1)]))
    await asyncio.wait_for(asyncio.gather(*(toy.asked.wait() for toy in three.values())), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(asyncio.gather(*(toy.cancelled.wait() for toy in three.values())), 5)


async def test_what_the_caller_asks_goes_on_to_the_members(three: dict[str, Toy], panels: Panels) -> None:
    members = {"x": three["x"].address, "y": {"address": three["y"].address, "template": "own", "votes": 7, "notes": ["You teach."]}}
    client = await panels(members, name="jury", default={"rule": "jury"})
    asked = {"votes": 3, "temperature": 0.5, "seed": 11, "want_rationale": True}
    metadata = {"x-tenant": "lab", "x-priority": "BATCH"}
    (found,) = await client.compare([duel("p", x=0.9, y=0.7)], template="theirs", metadata=metadata, **asked)  # type: ignore[arg-type]
    assert "x: it is so" in found.message.preference.rationales
    (one,), (other,) = three["x"].requests, three["y"].requests
    assert (one.template, one.votes, one.temperature, one.seed, one.want_rationale) == ("theirs", 3, 0.5, 11, True)
    assert (other.template, other.votes, list(other.pairs[0].context.notes)) == ("own", 7, ["You teach."])
    assert not one.HasField("model")
    assert not one.pairs[0].context.notes
    assert three["x"].metadata[0]["x-tenant"] == "lab"
    assert three["x"].metadata[0]["x-priority"] == "BATCH"
    # A program that names the panel as its judge means the panel, not a template of its members.
    await client.compare([duel("p", x=0.9, y=0.7)], template="jury", model="jury")
    assert three["x"].requests[1].template == ""


async def test_provenance_sums_what_the_members_did(toys: Toys, panels: Panels) -> None:
    x, y = await toys("x", cost=0.25), await toys("y")
    members = {"x": x.address, "y": y.address}
    client = await panels(members, default={"rule": "jury"})
    x.cached = True
    (found,) = await client.compare([duel("p", x=0.9, y=0.7)])
    provenance = found.message.provenance
    assert (provenance.tokens_read, provenance.tokens_computed, provenance.cost_usd, provenance.cached) == (20, 14, 0.25, False)
    assert (provenance.model.name, provenance.model.version) == ("panel", 1)
    y.cached = True
    (again,) = await client.compare([duel("p", x=0.9, y=0.7)], model=provenance.model)
    assert again.message.provenance.cached
    assert again.message.provenance.model == provenance.model
    other = await panels(members, name="other", default={"rule": "jury", "vote": "median"})
    (differently,) = await other.compare([duel("p", x=0.9, y=0.7)])
    assert differently.message.provenance.model.fingerprint != provenance.model.fingerprint
    with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*has fingerprint"):
        await client.compare([duel("p", x=0.9, y=0.7)], model=pb.ModelRef(fingerprint="old"))
    for wrong in (pb.ModelRef(name="x"), pb.ModelRef(version=2)):
        with pytest.raises(CallFailed, match="NOT_FOUND"):
            await client.compare([duel("p", x=0.9, y=0.7)], model=wrong)


async def test_wrong_calls_are_refused(three: dict[str, Toy], panels: Panels) -> None:
    client = await panels(addresses(three), default={"rule": "jury"})
    assert await client.compare([]) == []
    with pytest.raises(grpc.aio.AioRpcError, match="orders: unknown value 9"):
        await client.judge.Compare(api.CompareRequest(orders=9))  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError, match=r"pairs\[1\].id"):
        await client.judge.Compare(api.CompareRequest(pairs=[api.Pair(id="p"), api.Pair(id="p")]))
    borda = await panels(addresses(three), name="borda", rank={"rule": "jury", "vote": "borda"})
    with pytest.raises(grpc.aio.AioRpcError, match="aggregation: vote 'borda' scores in"):
        await borda.judge.Rank(api.RankRequest(aggregation=api.RANK_AGGREGATION_ELO))
    with pytest.raises(grpc.aio.AioRpcError, match=r"has no rule for critique.*one of critics"):
        await client.judge.Critique(api.CritiqueRequest())
    (alone,) = (await client.judge.Rank(api.RankRequest(groups=[api.RankGroup(id="g")]))).outcomes
    assert alone.absence.reason == pb.ABSENCE_REASON_INVALID_INPUT


async def test_a_members_refusal_is_its_own_unless_the_request_is_wrong(three: dict[str, Toy], panels: Panels) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no template named 'own'")

    async def blame(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "votes: must be at least 0")

    client = await panels(addresses(three), default={"rule": "jury", "quorum": 3})
    three["z"].hook = refuse
    (found,) = await client.compare([duel("p", x=0.9, y=0.7, z=0.1)])
    assert found.absence is not None
    assert not found.absence.retryable
    assert "z: INFRASTRUCTURE: NOT_FOUND: no template named 'own'" in found.absence.detail
    three["z"].hook = blame
    with pytest.raises(CallFailed, match=r"INVALID_ARGUMENT.*member 'z': votes: must be at least 0"):
        await client.compare([duel("p", x=0.9, y=0.7, z=0.1)])


async def test_a_verdict_that_is_no_probability_is_no_vote(three: dict[str, Toy], panels: Panels) -> None:
    client = await panels(addresses(three), default={"rule": "jury"})
    three["z"].prefer = lambda item: float("nan")
    before = _members_absent("z", "non_finite")
    (found,) = await client.compare([duel("p", x=0.9, y=0.7, z=0.1)])
    assert found.value == pytest.approx(0.8, abs=1e-6)
    assert _members_absent("z", "non_finite") == before + 1


async def test_panels_nest(three: dict[str, Toy], panels: Panels) -> None:
    inner = await panels({"x": three["x"].address, "y": three["y"].address}, name="inner", default={"rule": "jury"})
    outer = await panels({"inner": inner.target, "z": three["z"].address}, name="outer", default={"rule": "jury"})
    (found,) = await outer.compare([duel("p", x=0.9, y=0.7, z=0.4)])
    assert found.value == pytest.approx(0.6, abs=1e-6)
    assert "inner: x: p=0.9000" in found.message.preference.rationales
    assert found.message.provenance.tokens_read == 30
    (ranked,) = await outer.rank([rank_group("g", "?", [text_of(x=0, y=0, z=0), text_of(x=1, y=1, z=1)])])
    assert ranked.order == (1, 0)


async def test_health_follows_the_quorum(three: dict[str, Toy], panels: Panels) -> None:
    client = await panels(addresses(three), default={"rule": "jury"})

    watched = health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest(service="rewardmesh.v1.JudgeService"))

    async def becomes(wanted: str) -> None:
        async for reply in watched:
            if health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status) == wanted:
                return

    await asyncio.wait_for(becomes("SERVING"), 5)
    await three["x"].stop()
    await asyncio.sleep(0.2)
    assert await client.health() == "SERVING"
    await three["y"].stop()
    await asyncio.wait_for(becomes("NOT_SERVING"), 5)
    assert await client.health("liveness") == "SERVING"
    back = Toy("y")
    await back.start(int(three["y"].address.rpartition(":")[2]))
    await asyncio.wait_for(becomes("SERVING"), 10)
    await back.stop()


def _members_absent(member: str, outcome: str) -> float:
    labels = {"panel": "panel", "member": member, "method": "Compare", "outcome": outcome}
    return REGISTRY.get_sample_value("rewardmesh_panel_member_items_total", labels) or 0.0
