"""Evaluate over real sockets: composition, fan-out, routes, comparison, requests that are refused."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import grpc
import pytest

from rewardmesh.client import sample, unpack_floats
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as judge
from rewardmesh.v1 import mesh_service_pb2 as mesh

PROGRAM = """\
name: math-helpful
signals:
  correct: {verifier: math}
  helpful: {reward: rm}
  prefer: {judge: concise, mode: compare, against: group}
reward:
  gate: {if: correct, then: {sum: [{of: helpful, shape: {sigmoid: {centre: baseline}}, weight: 0.7}, {of: prefer, weight: 0.3}]}, else: 0.0}
on_absence: {correct: drop, helpful: wait, prefer: fallback(0.5)}
"""
BASELINES = {"math-helpful/helpful": 1.5}
SUM = """\
name: sum
signals:
  correct: {verifier: math}
  good: {judge: rubric, mode: grade}
reward: {sum: [correct, good]}
"""


def component(evaluation: mesh.Evaluation, name: str) -> mesh.Component:
    return next(each for each in evaluation.components if each.signal == name)


async def test_the_documented_program(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(PROGRAM, everywhere, baselines=BASELINES)
    samples = group("a", "math=1 rm=1.5 concise=2", "math=0 rm=9 concise=1", "math=1 rm=1.5 concise=?")
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
    assert [each.outcome.sample_id for each in reply.evaluations] == ["a0", "a1", "a2"]
    # a0 beats a1 (.75), has no verdict against a2; a2 has no verdict at all: its fallback.
    assert [each.outcome.reward.value for each in reply.evaluations] == pytest.approx([0.35 + 0.3 * 0.75, 0.0, 0.35 + 0.15])
    assert reply.evaluations[0].outcome.reward.scale == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=0, max=1)
    assert reply.evaluations[0].outcome.provenance.service == "rewardmesh.v1.MeshService"
    assert reply.evaluations[0].outcome.provenance.replica == "gate-0"
    assert len(reply.program_fingerprint) == 64
    first = reply.evaluations[0]
    assert [each.signal for each in first.components] == ["correct", "helpful", "prefer"]
    assert component(first, "correct").verdict.verdict.evidence == "compared"
    assert component(first, "helpful").reward.provenance.model.version == 1
    assert component(first, "helpful").value == 1.5
    assert component(first, "helpful").attempts == 1
    assert component(first, "helpful").wait_seconds > 0
    lost = component(reply.evaluations[2], "prefer")
    assert lost.value == 0.5
    assert lost.applied == mesh.ABSENCE_POLICY_FALLBACK
    assert lost.absence.reason == pb.ABSENCE_REASON_OVERLOADED
    assert all(each.advice == mesh.ABSENCE_POLICY_UNSPECIFIED for each in reply.evaluations)
    # One call a signal, samples in order.
    calls = [[each.id for each in request.samples] for request in backend.requests if not isinstance(request, judge.CompareRequest)]
    assert calls == [["a0", "a1", "a2"]] * 2


async def test_signals_are_asked_at_the_same_time(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def slow(request: Any, context: Any) -> None:
        await asyncio.sleep(0.5)

    stub = await gateway(SUM, everywhere)
    await stub.ListPrograms(mesh.ListProgramsRequest())
    backend.hook = slow
    began = time.monotonic()
    samples = [*group("a", "math=1 rubric=0.5"), *group("b", "math=1 rubric=0.25"), *group("c", "math=1 rubric=1")]
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
    assert time.monotonic() - began < 0.95  # six calls of 0.5 s
    assert [each.outcome.reward.value for each in reply.evaluations] == [1.5, 1.25, 2.0]
    assert len(backend.requests) == 6


async def test_groups_are_asked_apart_and_answered_in_the_requests_order(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(SUM, everywhere)
    a, b = group("a", "math=1 rubric=0.5", "math=0 rubric=0.5"), group("b", "math=1 rubric=1", "math=0 rubric=1")
    alone = [sample("x", "?", "math=0.25 rubric=0"), sample("y", "?", "math=0.5 rubric=0")]
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=[a[0], b[0], alone[0], a[1], b[1], alone[1]]), timeout=10)
    assert [each.outcome.sample_id for each in reply.evaluations] == ["a0", "b0", "x", "a1", "b1", "y"]
    assert [each.outcome.reward.value for each in reply.evaluations] == [1.5, 2.0, 0.25, 0.5, 1.0, 0.5]
    calls = sorted([each.id for each in request.samples] for request in backend.requests)
    assert calls == sorted([["a0", "a1"], ["b0", "b1"], ["x"], ["y"]] * 2)


async def test_comparison_gives_rows_and_a_matrix(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway("name: p\nsignals: {wins: {judge: t, mode: compare, against: group}}\nreward: wins\n", everywhere)
    samples = [*group("a", "t=3", "t=1", "t=3"), sample("alone", "?", "t=1")]
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
    assert [each.outcome.reward.value for each in reply.evaluations[:3]] == pytest.approx([0.625, 0.25, 0.625])
    assert reply.evaluations[0].outcome.reward.scale.kind == pb.SCALE_KIND_PROBABILITY
    [matrix] = reply.groups
    assert (matrix.group_id, matrix.signal, list(matrix.sample_ids), matrix.matrix.size) == ("a", "wins", ["a0", "a1", "a2"], 3)
    assert list(unpack_floats(matrix.matrix.probabilities)) == [0.5, 0.75, 0.5, 0.25, 0.5, 0.25, 0.5, 0.75, 0.5]
    row = reply.evaluations[1].components[0].preferences
    assert list(row.sample_ids) == ["a0", "a2"]
    assert row.win_rate == 0.25
    assert [each.preference.p_a for each in row.outcomes] == [0.25, 0.25]
    # a0 against a1 was shown as given (.875) and swapped (.625); seen from a1, what was swapped is as given.
    flipped = row.outcomes[0].preference
    assert (flipped.p_a_as_given, flipped.p_a_swapped, flipped.p_tie, flipped.agreement) == (0.375, 0.125, 0.0, 0.75)
    assert reply.evaluations[0].components[0].preferences.outcomes[1].preference.p_tie == 1.0
    [request] = backend.requests
    assert [(pair.a.text, pair.b.text) for pair in request.pairs] == [("t=3", "t=1"), ("t=3", "t=3"), ("t=1", "t=3")]
    assert request.orders == judge.COMPARE_ORDERS_BOTH
    assert request.template == "t"
    lonely = reply.evaluations[3]
    assert lonely.outcome.absence.reason == pb.ABSENCE_REASON_NOT_APPLICABLE
    assert not lonely.outcome.absence.retryable


async def test_pairs_without_a_verdict_are_left_out(gateway: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway("name: p\nsignals: {wins: {judge: t, mode: compare, against: group}}\nreward: wins\n", everywhere)
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=group("a", "t=3", "t=1", "t=!")), timeout=10)
    assert [each.outcome.reward.value for each in reply.evaluations[:2]] == [0.75, 0.25]
    assert reply.evaluations[2].outcome.absence.reason == pb.ABSENCE_REASON_UNPARSABLE
    values = unpack_floats(reply.groups[0].matrix.probabilities)
    assert [math.isnan(value) for value in values] == [False, False, True, False, False, True, True, True, False]


async def test_a_route_asks_only_what_it_needs(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    program = """\
name: routed
signals: {correct: {verifier: math}, good: {judge: rubric, mode: grade}}
reward: {route: {by: task, cases: {math: correct, chat: good}}}
"""
    stub = await gateway(program, everywhere)
    samples = [*group("a", "math=1", task="math"), *group("b", "rubric=0.5", task="chat"), *group("c", "x=1", task="art")]
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
    assert [[each.signal for each in evaluation.components] for evaluation in reply.evaluations] == [["correct"], ["good"], []]
    assert [each.outcome.reward.value for each in reply.evaluations[:2]] == [1.0, 0.5]
    assert reply.evaluations[2].outcome.absence.reason == pb.ABSENCE_REASON_NOT_APPLICABLE
    assert len(backend.requests) == 2


async def test_signals_find_their_backends(gateway: Any, backends: Any, group: Any) -> None:
    program = """\
name: p
signals: {a: {reward: a}, b: {reward: b}, c: {reward: c, service: special}}
reward: {sum: [{of: a, shape: sigmoid}, {of: b, shape: sigmoid}, {of: c, shape: sigmoid}]}
"""
    general, own, special = await backends(), await backends(), await backends()
    stub = await gateway(program, {"reward": general.address, "reward/b": own.address, "special": special.address})
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=group("g", "a=0 b=0 c=0")), timeout=10)
    assert reply.evaluations[0].outcome.reward.value == 1.5
    assert [[request.options.model.name for request in each.requests] for each in (general, own, special)] == [["a"], ["b"], ["c"]]


async def test_options_of_signals_reach_the_services(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    program = """\
name: p
signals:
  half: {reward: rm, objective: half, want: [spans], scale: unit}
  other: {reward: rm, objective: quarter, scale: unit}
  checked: {verifier: math, options: {tolerance: 0.1}}
  graded: {judge: rubric, mode: grade, votes: 3, temperature: 0.5, seed: 7, model: big, rationale: true}
reward: {sum: [half, checked, graded, other]}
on_absence: {other: fallback(0)}
"""
    stub = await gateway(program, everywhere)
    reply = await stub.Evaluate(mesh.EvaluateRequest(samples=group("g", "rm=1 math=1 rubric=1")), timeout=10)
    assert reply.evaluations[0].outcome.reward.value == 2.5
    assert "no objective 'quarter' (has: half)" in component(reply.evaluations[0], "other").absence.detail
    sent = {type(request).__name__: request for request in backend.requests}
    assert sent["ScoreRequest"].options.want.objectives
    assert sent["VerifyRequest"].options["tolerance"] == 0.1
    graded = sent["GradeRequest"]
    assert (graded.votes, graded.temperature, graded.seed, graded.model.name, graded.want_rationale) == (3, 0.5, 7, "big", True)


async def test_metadata_is_passed_on(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(SUM, everywhere)
    metadata = (("x-request-id", "r-1"), ("x-tenant", "team"), ("x-priority", "BATCH"), ("x-other", "no"))
    await stub.Evaluate(mesh.EvaluateRequest(samples=group("g", "math=1 rubric=1")), timeout=10, metadata=metadata)
    for got in backend.metadata:
        assert {key: got.get(key) for key in ("x-request-id", "x-tenant", "x-priority", "x-other")} == {
            "x-request-id": "r-1",
            "x-tenant": "team",
            "x-priority": "BATCH",
            "x-other": None,
        }


async def test_an_empty_batch_has_an_empty_answer(gateway: Any, everywhere: Any) -> None:
    stub = await gateway(SUM, everywhere)
    reply = await stub.Evaluate(mesh.EvaluateRequest(), timeout=10)
    assert not reply.evaluations
    assert reply.program_fingerprint


@pytest.mark.parametrize(
    ("options", "ids", "code", "words"),
    [
        ({}, ["a", "a"], grpc.StatusCode.INVALID_ARGUMENT, "samples[1].id"),
        ({}, [""], grpc.StatusCode.INVALID_ARGUMENT, "samples[0].id"),
        ({"program": "nosuch"}, ["a"], grpc.StatusCode.NOT_FOUND, "known: sum"),
        ({"program_fingerprint": "0" * 64}, ["a"], grpc.StatusCode.FAILED_PRECONDITION, "the call expects 000"),
        ({"pins": {"nosuch": pb.ModelRef(version=1)}}, ["a"], grpc.StatusCode.INVALID_ARGUMENT, "has: correct, good"),
        ({"pins": {"correct": pb.ModelRef(version=1)}}, ["a"], grpc.StatusCode.INVALID_ARGUMENT, "has no model to pin"),
    ],
)
async def test_wrong_requests_are_refused(
    gateway: Any, everywhere: Any, options: dict[str, Any], ids: list[str], code: grpc.StatusCode, words: str
) -> None:
    stub = await gateway(SUM, everywhere)
    samples = [pb.Sample(id=each, completion=pb.Completion(text="math=1 rubric=1")) for each in ids]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Evaluate(mesh.EvaluateRequest(options=mesh.EvaluateOptions(**options), samples=samples), timeout=10)
    assert caught.value.code() is code
    assert words in (caught.value.details() or "")


async def test_a_group_has_one_prompt(gateway: Any, everywhere: Any) -> None:
    stub = await gateway(SUM, everywhere)
    samples = [sample("a", "one?", "math=1", group_id="g"), sample("b", "two?", "math=1", group_id="g")]
    with pytest.raises(grpc.aio.AioRpcError, match=r"samples\[1\]\.prompt: differs from that of its group 'g'"):
        await stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
