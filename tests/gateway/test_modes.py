"""Rankings, critiques, comparison with reference answers, and where a verdict was decided, in programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rewardmesh.client import Evaluation, sample, unpack_floats
from rewardmesh.gateway.program import ProgramError, parse_program
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as judge
from rewardmesh.v1 import mesh_service_pb2 as mesh

Gateway = Callable[..., Awaitable[Any]]
Group = Callable[..., list[pb.Sample]]


def _program(signal: str, rule: str = "drop") -> str:
    return f"name: p\nsignals: {{s: {signal}}}\nreward: {{sum: [s]}}\non_absence: {{s: {rule}}}\n"


async def _evaluate(stub: Any, samples: list[pb.Sample]) -> tuple[list[Evaluation], Any]:
    response = await stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
    return [Evaluation.from_proto(each) for each in response.evaluations], response.groups


async def test_a_group_is_ranked_in_one_call(gateway: Gateway, backend: Any, everywhere: dict[str, str], group: Group) -> None:
    stub = await gateway(_program("{judge: t, mode: rank, method: sparse, pairs_per_answer: 2, aggregation: borda, seed: 3}"), everywhere)
    found, groups = await _evaluate(stub, group("a", "t=0.25", "t=1", "t=0.5"))
    assert [each.value for each in found] == [0.25, 1.0, 0.5]
    [request] = backend.requests
    assert (request.method, request.aggregation) == (judge.RANK_METHOD_SPARSE, judge.RANK_AGGREGATION_BORDA)
    assert (request.pairs_per_answer, request.repeats, request.seed) == (2, 1, 3)
    assert list(unpack_floats(groups[0].matrix.probabilities)) == [0.5, 0, 0, 1, 0.5, 1, 1, 0, 0.5]


async def test_what_cannot_be_ranked_is_absent(gateway: Gateway, everywhere: dict[str, str], group: Group) -> None:
    stub = await gateway(_program("{judge: t, mode: rank}"), everywhere)
    found, _ = await _evaluate(stub, group("alone", "t=1") + group("lost", "t=1", "t=!") + group("beyond", "t=2", "t=0"))
    reasons = [each.absence.reason if each.absence else None for each in found]
    assert reasons == ["NOT_APPLICABLE", "UNPARSABLE", "UNPARSABLE", "INVALID_INPUT", None]


async def test_a_critique_keeps_its_spans_and_its_points_are_the_value(
    gateway: Gateway, backend: Any, everywhere: dict[str, str], group: Group
) -> None:
    stub = await gateway(_program("{judge: t, mode: critique, max_points: 4}", "fallback(0.0)"), everywhere)
    found, _ = await _evaluate(stub, group("a", "t=-0.5", "t=0"))
    assert [each.value for each in found] == [-0.5, 0.0]
    silent = found[1].components["s"]
    assert silent.absence is not None
    assert silent.absence.reason == "ABSTAINED"
    spans = found[0].components["s"].message.critique.critique.spans
    assert [(span.start, span.end, span.HasField("value")) for span in spans] == [(0, 4, False), (0, 2, True)]
    assert backend.requests[0].max_points == 4
    assert not backend.requests[0].want_revision


async def test_a_critique_may_count_by_its_revision(gateway: Gateway, backend: Any, everywhere: dict[str, str], group: Group) -> None:
    stub = await gateway(_program("{judge: t, mode: critique, value: revision}"), everywhere)
    found, _ = await _evaluate(stub, group("a", "t=1"))
    assert found[0].value == 0.25
    assert backend.requests[0].compare_revision


async def test_samples_are_compared_with_their_references(gateway: Gateway, backend: Any, everywhere: dict[str, str]) -> None:
    stub = await gateway(_program("{judge: t, mode: compare, against: references}"), everywhere)
    samples = [
        sample("better", "q", "t=2", references=["t=1", "t=3"]),
        sample("half", "q", "t=2", references=["t=1", "t=!"]),
        sample("none", "q", "t=2"),
    ]
    found, groups = await _evaluate(stub, samples)
    assert [each.value for each in found] == [0.5, 0.75, None]
    assert found[2].absence is not None
    assert found[2].absence.reason == "NOT_APPLICABLE"
    assert not groups
    asked = [pair for request in backend.requests for pair in request.pairs]
    assert all(not pair.references for pair in asked), "the judge would be shown what the answer is compared with"


async def test_the_place_of_a_verdict_has_a_value_when_the_program_asks_for_it(
    gateway: Gateway, everywhere: dict[str, str], group: Group
) -> None:
    for asked in ("spans: true", "options: {}"):
        stub = await gateway(_program(f"{{verifier: t, {asked}}}").replace("name: p", f"name: {asked[:5]}"), everywhere)
        found, _ = await _evaluate(stub, group("a", "t=1", "t=0.25"))
        places = [each.components["s"].message.verdict.verdict.location.span for each in found]
        if asked.startswith("spans"):
            assert [place.value for place in places] == [1.0, -0.5]
        else:
            assert not any(place.HasField("value") for place in places)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ("{judge: t}", "signals.s.mode: must be one of compare, rank, grade, critique"),
        ("{judge: t, mode: compare}", "mode compare needs `against: group` or `against: references`"),
        ("{judge: t, mode: grade, against: group}", "signals.s.against: "),
        ("{judge: t, mode: rank, pairs_per_answer: 3}", "pairs_per_answer is for `method: sparse`"),
        ("{judge: t, mode: critique, votes: 3}", "votes: a critique is written once"),
        ("[judge]", "must be a mapping with exactly one of verifier, reward, judge"),
    ],
)
def test_a_mistake_is_pointed_at(signal: str, message: str) -> None:
    with pytest.raises(ProgramError, match="p:2: ") as raised:
        parse_program(_program(signal), "p")
    assert message in str(raised.value)
