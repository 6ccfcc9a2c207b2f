"""Grade on a real server: expected scores, weights, rubrics and missing criteria."""

from __future__ import annotations

import pytest

from judge.conftest import Serve
from rewardmesh.client import AbsenceReason, sample
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

QUESTION = "How many apples?"


def context(**criteria: float) -> pb.Context:
    return pb.Context(criteria=[pb.Criterion(id=name, text=f"Is it {name}", weight=weight) for name, weight in criteria.items()])


async def test_yes_no_grades_are_probabilities_and_the_total_their_weighted_mean(serve: Serve) -> None:
    async with serve() as client:
        (result,) = await client.grade([sample("s", QUESTION, "19", context=context(right=3, kind=0))])
    assert result.absence is None
    right, kind = result.message.grades.grades
    assert (right.criterion_id, kind.criterion_id) == ("right", "kind")
    for grade in (right, kind):
        assert grade.score == grade.p_yes
        assert (grade.min, grade.max) == (0, 1)
        assert 0 < grade.score < 1
    assert right.score != kind.score
    assert result.value == pytest.approx((3 * right.score + kind.score) / 4, abs=1e-6)


async def test_scores_are_expectations_and_the_rubric_brings_criteria(serve: Serve) -> None:
    async with serve() as client:
        results = await client.grade(
            [sample("own", QUESTION, "19"), sample("more", QUESTION, "19", context=context(kind=1))], rubric="scores"
        )
    own, more = results
    (clear,) = own.message.grades.grades
    assert clear.criterion_id == "clear"
    assert (clear.min, clear.max) == (1, 5)
    assert 1 < clear.score < 5
    assert not clear.HasField("p_yes")
    assert own.value == pytest.approx((clear.score - 1) / 4, abs=1e-6)
    assert list(more.by_criterion) == ["clear", "kind"]
    assert more.by_criterion["clear"] == pytest.approx(clear.score, abs=1e-4)
    assert more.value == pytest.approx((3 * (clear.score - 1) / 4 + (more.by_criterion["kind"] - 1) / 4) / 4, abs=1e-4)


async def test_a_rubric_without_criteria_grades_the_whole_answer_once(serve: Serve) -> None:
    async with serve() as client:
        (result,) = await client.grade([sample("s", QUESTION, "19")], rubric="whole")
    (grade,) = result.message.grades.grades
    assert (grade.criterion_id, grade.min, grade.max) == ("whole", 0, 4)
    assert result.value == pytest.approx(grade.score / 4, abs=1e-6)


async def test_builtin_rubric(serve: Serve) -> None:
    async with serve(templates=[], default_template="", default_rubric="") as client:
        (result,) = await client.grade([sample("s", QUESTION, "19", references=["19"], context=context(right=1))])
    assert result.absence is None
    assert result.message.grades.grades[0].HasField("p_yes")


async def test_bad_samples_are_absences(serve: Serve) -> None:
    items = [
        sample("good", QUESTION, "19", context=context(right=1)),
        sample("none", QUESTION, "19"),
        sample("empty", QUESTION, "", context=context(right=1)),
        sample("negative", QUESTION, "19", context=context(right=-1)),
        sample("nan", QUESTION, "19", context=context(right=float("nan"))),
        sample("unnamed", QUESTION, "19", context=pb.Context(criteria=[pb.Criterion(text="x")])),
        sample("wordless", QUESTION, "19", context=pb.Context(criteria=[pb.Criterion(id="x")])),
        sample("twice", QUESTION, "19", context=pb.Context(criteria=[pb.Criterion(id="x", text="x")] * 2)),
        sample("huge", QUESTION, "19 " * 20_000, context=context(right=1)),
    ]
    async with serve() as client:
        good, *bad, huge = await client.grade(items)
    assert good.value is not None
    assert [result.absence.reason for result in bad if result.absence] == [AbsenceReason.INVALID_INPUT] * 7
    assert bad[0].absence is not None
    assert "criteria" in bad[0].absence.detail
    assert huge.absence is not None
    assert huge.absence.reason == AbsenceReason.TOO_LONG


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (api.GradeRequest(rubric="no-such"), "no rubric named 'no-such'; known: grade-yes-no, scores, whole, yes-no"),
        (api.GradeRequest(rubric="short"), "no rubric named 'short'"),
        (api.GradeRequest(votes=2), "votes"),
        (api.GradeRequest(want_rationale=True), "want_rationale"),
        (api.GradeRequest(samples=[sample("a", "q", "x"), sample("a", "q", "y")]), "unique"),
    ],
)
async def test_a_wrong_call_is_a_status(serve: Serve, request_: api.GradeRequest, words: str) -> None:
    async with serve() as client:
        with pytest.raises(Exception, match=words):
            await client.judge.Grade(request_)
