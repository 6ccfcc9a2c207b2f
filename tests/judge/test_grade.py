"""Grade on a real server: expected scores, weights, rubrics and missing criteria."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

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
        (api.GradeRequest(rubric="no-such"), "no rubric named 'no-such'; known: grade-aspects, .*scores, whole, yes-no"),
        (api.GradeRequest(rubric="short"), "no rubric named 'short'"),
        (api.GradeRequest(votes=-2), "votes"),
        (api.GradeRequest(want_rationale=True, rubric="whole"), "want_rationale: template 'whole' has no hops"),
        (api.GradeRequest(samples=[sample("a", "q", "x"), sample("a", "q", "y")]), "unique"),
    ],
)
async def test_a_wrong_call_is_a_status(serve: Serve, request_: api.GradeRequest, words: str) -> None:
    async with serve() as client:
        with pytest.raises(Exception, match=words):
            await client.judge.Grade(request_)


LIKERT = """
name: likert
kind: grade
labels: {Excellent: 4, "Good enough": 2, Terrible: 0}
max: 5
text: >-
  {{ prompt }} answer: {{ completion }}
  {{ criterion.text }}?{% for level in criterion.levels %} {{ level.label }}: {{ level.text }}{% endfor %}
criteria:
  - {id: clear, text: clarity, levels: {Terrible: nobody understands it}}
  - {id: safe, text: safety, weight: 3, labels: {yes: "Y", no: "N"}}
"""


async def test_words_of_several_tokens_are_read_whole(serve: Serve, judge_model: Path, tmp_path: Path) -> None:
    (tmp_path / "likert.yaml").write_text(LIKERT)
    async with serve(templates=[str(tmp_path)], default_template="", default_rubric="") as client:
        [result] = await client.grade([sample("s", QUESTION, "19")])
    clear, safe = result.message.grades.grades
    assert (clear.min, clear.max, clear.HasField("p_yes")) == (0, 5, False)
    assert (safe.min, safe.max, safe.HasField("p_yes")) == (0, 1, True)
    assert result.value == pytest.approx((clear.score / 5 + 3 * safe.score) / 4, abs=1e-6)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(judge_model), PreTrainedTokenizerFast.from_pretrained(judge_model)
    text = f"{QUESTION} answer: 19 clarity? Terrible: nobody understands it"
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
    scores = {"Terrible": 0.0, "Good enough": 2.0, "Excellent": 4.0}
    log_probs = []
    for word in scores:
        before, ids = (tokenizer(each, add_special_tokens=False, return_tensors="pt")["input_ids"] for each in (prompt, prompt + word))
        assert ids.shape[1] > before.shape[1] + 1
        with torch.inference_mode():
            steps = model(ids).logits[0].log_softmax(-1)[before.shape[1] - 1 : -1]
        log_probs.append(float(steps.gather(1, ids[0, before.shape[1] :, None]).sum()))
    chances = torch.tensor(log_probs).softmax(0)
    assert clear.score == pytest.approx(float((chances * torch.tensor(list(scores.values()))).sum()), abs=1e-3)


async def test_votes_on_criteria(serve: Serve) -> None:
    item = sample("s", QUESTION, "19", context=context(right=1, kind=3))
    async with serve() as client:
        [exact] = await client.grade([item])
        [voted] = await client.grade([item], votes=400, seed=2)
        [again] = await client.grade([item], votes=400, seed=2)
    grades = voted.message.grades
    assert (grades.votes, grades.unparsable_votes) == (400, 0)
    assert voted.value == pytest.approx(exact.value, abs=0.06)
    assert 0.5 <= grades.vote_agreement < 1
    assert voted.value == again.value
    assert (exact.message.grades.votes, exact.message.grades.HasField("vote_agreement")) == (0, False)


@pytest.mark.parametrize(
    "rubric", ["grade-aspects", "grade-checklist", "grade-constraint", "grade-principles", "grade-grounded", "grade-citations"]
)
async def test_built_in_rubrics(serve: Serve, rubric: str) -> None:
    given = context(right=1)
    given.notes.append("Ann has 19 apples.")
    given.principles.append("Be kind.")
    async with serve(templates=[], default_template="", default_rubric="") as client:
        [result, bare] = await client.grade(
            [sample("s", QUESTION, "19", context=given), sample("bare", QUESTION, "19", context=context(right=1))], rubric=rubric
        )
    assert result.absence is None
    assert 0 < (result.value or 0) < 1
    reason = {"grade-grounded": AbsenceReason.NOT_APPLICABLE, "grade-citations": AbsenceReason.NOT_APPLICABLE}
    reason |= {"grade-principles": AbsenceReason.INVALID_INPUT}
    assert (bare.absence.reason if bare.absence else None) == reason.get(rubric)
