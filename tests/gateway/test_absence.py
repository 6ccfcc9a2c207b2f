"""What the gateway makes of services that are late, down, busy, wrong or strange."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import grpc
import pytest

from rewardmesh.serving.metrics import ITEMS
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh
from rewardmesh.v1 import reward_service_pb2 as reward
from rewardmesh.v1 import verifier_service_pb2 as verifier

TWO = """\
name: two
signals:
  correct: {{verifier: math, timeout: {timeout}}}
  helpful: {{reward: rm, scale: unit}}
reward: {{gate: {{if: correct, then: {{sum: [correct, helpful]}}, else: 0.0}}}}
on_absence: {{correct: {correct}, helpful: {helpful}}}
"""


def two(correct: str = "drop", helpful: str = "drop", timeout: float = 5) -> str:
    return TWO.format(correct=correct, helpful=helpful, timeout=timeout)


def component(evaluation: mesh.Evaluation, name: str) -> mesh.Component:
    return next(each for each in evaluation.components if each.signal == name)


async def evaluate(stub: Any, samples: list[pb.Sample], timeout: float = 10, **options: Any) -> list[mesh.Evaluation]:
    reply = await stub.Evaluate(mesh.EvaluateRequest(options=mesh.EvaluateOptions(**options), samples=samples), timeout=timeout)
    return list(reply.evaluations)


def abort(kind: type[Any], code: grpc.StatusCode, words: str) -> Any:
    """A hook that refuses requests of a kind."""

    async def hook(request: Any, context: Any) -> None:
        if isinstance(request, kind):
            await context.abort(code, words)

    return hook


async def test_a_late_signal_is_absent_while_others_compose(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def late(request: Any, context: Any) -> None:
        if isinstance(request, reward.ScoreRequest) and request.samples[0].group_id == "b":
            await asyncio.sleep(30)

    backend.hook = late
    stub = await gateway(two(), everywhere)
    samples = [*group("a", "math=1 rm=0.5"), *group("b", "math=1 rm=0.5", "math=0 rm=0.5")]
    began = time.monotonic()
    a, b, c = await evaluate(stub, samples, timeout=1.0)
    assert 0.8 < time.monotonic() - began < 1.0  # its share of the caller's deadline, not the deadline itself
    assert a.outcome.reward.value == 1.5
    assert b.outcome.absence.reason == pb.ABSENCE_REASON_DEADLINE
    assert b.outcome.absence.retryable
    assert b.advice == mesh.ABSENCE_POLICY_DROP
    assert component(b, "correct").value == 1.0
    assert component(b, "helpful").applied == mesh.ABSENCE_POLICY_DROP
    # A wrong answer needs no helpfulness.
    assert c.outcome.reward.value == 0.0
    assert component(c, "helpful").absence.reason == pb.ABSENCE_REASON_DEADLINE
    assert component(c, "helpful").applied == mesh.ABSENCE_POLICY_UNSPECIFIED
    assert backend.cancelled == 1


async def test_a_signals_own_timeout_is_shorter_than_the_callers(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def late(request: Any, context: Any) -> None:
        if isinstance(request, verifier.VerifyRequest):
            await asyncio.sleep(30)

    backend.hook = late
    stub = await gateway(two(correct="abort", timeout=0.2), everywhere)
    began = time.monotonic()
    [got] = await evaluate(stub, group("a", "math=1 rm=0.5"))
    assert time.monotonic() - began < 2
    assert got.outcome.absence.reason == pb.ABSENCE_REASON_DEADLINE
    assert got.advice == mesh.ABSENCE_POLICY_ABORT
    assert not got.components[0].HasField("value")


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        (grpc.StatusCode.INTERNAL, pb.ABSENCE_REASON_INFRASTRUCTURE, True),
        (grpc.StatusCode.UNKNOWN, pb.ABSENCE_REASON_INFRASTRUCTURE, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ABSENCE_REASON_OVERLOADED, True),
        (grpc.StatusCode.INVALID_ARGUMENT, pb.ABSENCE_REASON_INVALID_INPUT, False),
        (grpc.StatusCode.NOT_FOUND, pb.ABSENCE_REASON_INVALID_INPUT, False),
        (grpc.StatusCode.UNIMPLEMENTED, pb.ABSENCE_REASON_INVALID_INPUT, False),
        (grpc.StatusCode.PERMISSION_DENIED, pb.ABSENCE_REASON_INFRASTRUCTURE, False),
    ],
)
async def test_failed_calls_are_typed(
    gateway: Any, backend: Any, everywhere: Any, group: Any, code: grpc.StatusCode, reason: int, retryable: bool
) -> None:
    backend.hook = abort(reward.ScoreRequest, code, "so it is")
    stub = await gateway(two(helpful="resample"), everywhere)
    [got] = await evaluate(stub, group("a", "math=1 rm=0.5"))
    lost = component(got, "helpful").absence
    assert (lost.reason, lost.retryable) == (reason, retryable)
    assert lost.detail == f"backend 'reward' ({backend.address}): {code.name}: so it is"
    assert got.advice == mesh.ABSENCE_POLICY_RESAMPLE
    assert component(got, "correct").value == 1.0


async def test_a_dead_backend_leaves_the_gateway_well(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(two(helpful="fallback(0.25)"), everywhere | {"reward": "127.0.0.1:1"})
    [got] = await evaluate(stub, group("a", "math=1 rm=0.5"))
    assert got.outcome.reward.value == 1.25
    assert component(got, "helpful").absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
    assert component(got, "helpful").value == 0.25
    assert component(got, "helpful").applied == mesh.ABSENCE_POLICY_FALLBACK


async def test_wait_asks_again_until_the_backend_is_there(gateway: Any, backend: Any, backends: Any, everywhere: Any, group: Any) -> None:
    late = await backends()
    port = int(late.address.rsplit(":", 1)[1])
    await late.stop()
    stub = await gateway(two(helpful="wait"), everywhere | {"reward": late.address})
    asked = asyncio.create_task(evaluate(stub, group("a", "math=1 rm=0.5"), timeout=20))
    await asyncio.sleep(1.0)
    await late.start(port)
    [got] = await asked
    assert got.outcome.reward.value == 1.5
    assert component(got, "helpful").attempts >= 1


async def test_wait_retries_only_what_is_absent(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def busy_at_first(request: Any, context: Any) -> None:
        if isinstance(request, reward.ScoreRequest) and len(backend.requests) > 3:
            for item in request.samples:
                item.completion.text = item.completion.text.replace("?", "0.25")

    backend.hook = busy_at_first
    stub = await gateway(two(helpful="wait"), everywhere)
    got = await evaluate(stub, group("a", "math=1 rm=0.5", "math=1 rm=?", "math=0 rm=?", "math=1 rm=!"))
    assert [each.outcome.reward.value for each in got[:3]] == [1.5, 1.25, 0.0]
    assert got[3].outcome.absence.reason == pb.ABSENCE_REASON_UNPARSABLE
    assert got[3].advice == mesh.ABSENCE_POLICY_DROP
    assert component(got[0], "helpful").attempts == 1
    assert component(got[1], "helpful").attempts > 1
    asked = [[item.id for item in each.samples] for each in backend.requests if isinstance(each, reward.ScoreRequest)]
    assert asked[0] == ["a0", "a1", "a2", "a3"]
    assert asked[1] == ["a1", "a2"]


async def test_wait_that_is_in_vain_advises_to_ask_again(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(two(helpful="wait"), everywhere)
    began = time.monotonic()
    right, wrong = await evaluate(stub, group("a", "math=1 rm=?", "math=0 rm=1"), timeout=0.8)
    assert time.monotonic() - began < 0.8
    assert right.advice == mesh.ABSENCE_POLICY_WAIT
    assert right.outcome.absence.retryable
    assert right.outcome.absence.reason == pb.ABSENCE_REASON_OVERLOADED
    assert component(right, "helpful").attempts >= 3
    assert wrong.outcome.reward.value == 0.0


async def test_what_no_longer_matters_is_not_waited_for(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(two(helpful="wait"), everywhere)
    began = time.monotonic()
    got = await evaluate(stub, group("a", "math=0 rm=?", "math=1 rm=0.5"), timeout=20)
    assert time.monotonic() - began < 2
    assert [each.outcome.reward.value for each in got] == [0.0, 1.5]
    assert component(got[0], "helpful").absence.reason == pb.ABSENCE_REASON_OVERLOADED


async def test_comparison_is_waited_for_in_full(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def busy_at_first(request: Any, context: Any) -> None:
        if len(backend.requests) > 1:
            for pair in request.pairs:
                pair.b.text = "t=2"

    backend.hook = busy_at_first
    program = "name: p\nsignals: {wins: {judge: t, mode: compare, against: group}}\nreward: wins\non_absence: {wins: wait}\n"
    stub = await gateway(program, everywhere)
    got = await evaluate(stub, group("a", "t=3", "t=1", "t=?"))
    assert [each.outcome.reward.value for each in got] == [0.75, 0.25, 0.5]
    assert [len(request.pairs) for request in backend.requests] == [3, 2]


@pytest.mark.parametrize("value", ["nan", "inf"])
async def test_what_is_no_number_is_absent(gateway: Any, everywhere: Any, group: Any, value: str) -> None:
    stub = await gateway(two(), everywhere)
    bad, good = await evaluate(stub, group("a", f"math=1 rm={value}", "math=1 rm=1"))
    assert bad.outcome.absence.reason == pb.ABSENCE_REASON_NON_FINITE
    assert not math.isfinite(component(bad, "helpful").reward.reward.value)
    assert not component(bad, "helpful").HasField("value")
    assert good.outcome.reward.value == 2.0


async def test_a_value_off_its_declared_scale_is_absent(gateway: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(two(), everywhere)
    [got] = await evaluate(stub, group("a", "math=1 rm=7"))
    assert got.outcome.absence.reason == pb.ABSENCE_REASON_INVALID_INPUT
    assert got.outcome.absence.detail == "helpful: the service answered 7, outside the signal's scale [0, 1]"


async def test_answers_that_do_not_fit_the_questions_are_absences(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def confuse(request: Any, context: Any) -> None:
        if isinstance(request, reward.ScoreRequest):
            request.samples[0].id = "someone else"

    backend.hook = confuse
    stub = await gateway(two(), everywhere)
    got = await evaluate(stub, group("a", "math=1 rm=1", "math=0 rm=1"))
    assert got[0].outcome.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
    assert got[1].outcome.reward.value == 0.0


async def test_pins(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    stub = await gateway(two(), everywhere)
    samples = group("a", "math=1 rm=0.5")
    [got] = await evaluate(stub, samples, pins={"helpful": pb.ModelRef(version=1)})
    assert got.outcome.reward.value == 1.5
    [asked] = [request.options.model for request in backend.requests if isinstance(request, reward.ScoreRequest)]
    assert (asked.name, asked.version) == ("rm", 1)
    backend.version = 2
    [got] = await evaluate(stub, samples, pins={"helpful": pb.ModelRef(version=1)})
    assert got.outcome.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
    assert got.outcome.absence.retryable
    assert got.outcome.absence.detail == "helpful: version 2 answered, version 1 is pinned"
    assert component(got, "helpful").reward.reward.value == 0.5
    assert not component(got, "helpful").HasField("value")
    with pytest.raises(grpc.aio.AioRpcError, match=r"options\.pins\[helpful\]\.name: the signal asks 'rm', not 'other'"):
        await evaluate(stub, samples, pins={"helpful": pb.ModelRef(name="other", version=1)})


async def test_a_pinned_version_may_still_come(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def not_yet(request: Any, context: Any) -> None:
        if isinstance(request, reward.ScoreRequest) and len(backend.requests) < 4:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no version 1 of rm yet")

    backend.hook = not_yet
    stub = await gateway(two(helpful="wait"), everywhere)
    [got] = await evaluate(stub, group("a", "math=1 rm=0.5"), pins={"helpful": pb.ModelRef(version=1)})
    assert got.outcome.reward.value == 1.5


async def test_versions_are_never_mixed_in_a_group(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    async def roll(request: Any, context: Any) -> None:
        if isinstance(request, reward.ScoreRequest) and request.samples[0].id != "a0":
            backend.version = 2
            for item in request.samples:
                item.completion.text = item.completion.text.replace("?", "0.25")

    backend.hook = roll
    stub = await gateway(two(helpful="wait"), everywhere)
    got = await evaluate(stub, group("a", "math=1 rm=0.5", "math=1 rm=?"))
    # The retry met version 2, so the sample that version 1 had scored was asked again.
    assert [each.outcome.reward.value for each in got] == [1.5, 1.25]
    assert {component(each, "helpful").reward.provenance.model.version for each in got} == {2}


async def test_outcomes_are_counted(gateway: Any, everywhere: Any, group: Any) -> None:
    def count(model: str, outcome: str) -> float:
        return float(ITEMS.labels("rewardmesh.v1.MeshService", model, outcome)._value.get())

    keys = [
        ("two", "present"),
        ("two", "unparsable"),
        ("two/helpful", "present"),
        ("two/helpful", "unparsable"),
        ("two/correct", "present"),
    ]
    before = [count(*key) for key in keys]
    stub = await gateway(two(), everywhere)
    await evaluate(stub, group("a", "math=1 rm=0.5", "math=1 rm=!"))
    assert [after - number for after, number in zip((count(*key) for key in keys), before, strict=True)] == [1, 1, 1, 1, 2]
