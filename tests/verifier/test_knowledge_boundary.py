"""Knowledge boundary: right before refused before wrong, and what is a refusal."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.knowledge_boundary import KnowledgeBoundaryOptions, verify_group


def judge(*completions: str, reference: str = "18", **options: Any) -> list[float | Reason]:
    group = [SampleFields(one, (reference,)) for one in completions]
    results = verify_group(group, KnowledgeBoundaryOptions.model_validate(options))
    return [result.score if isinstance(result, Verdict) else result.reason for result in results]


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I do not know the answer to this question.",
        "I really don’t know how to solve this.",
        "I'm not sure.",
        "I can't answer that.",
        "I cannot determine this from the information given.",
        "I cannot determine how many of the 5 apples are red.",
        "We have 5 apples and 3 pears, but there isn't enough information to tell.",
        "It cannot be determined from the given data.",
        "This question is beyond my knowledge.",
        "Sorry, I have no idea.",
        "Unknown",
        "Answer: I don't know",
        "The answer is unknown.",
        "\\boxed{\\text{I don't know}}",
        "18. I cannot answer this.",
    ],
)
def test_a_refusal_lies_between_right_and_wrong(text: str) -> None:
    assert judge(text, "A: 18", "A: 17") == [0.5, 1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "I'm not sure, but the answer is 17.",
        "I don't know, maybe 17?",
        "I am not certain. A: 17",
        "I can't answer this exactly. 17.",
        "I cannot determine it exactly, but 17 is close",
        "Sorry for the confusion, it is 19",
        "She cannot buy 7 pens, so 6.",
        "He does not know his age, but it is 12.",
        "We do not know the price yet. It is 3*5 = 15.\nA: 15",
        "17 it is.",
        "",
    ],
)
def test_a_doubt_beside_an_answer_is_no_refusal(text: str) -> None:
    assert judge(text) == [0]


def test_right_answers_with_doubts_are_right() -> None:
    assert judge("I am not sure, but the answer is 18.", "I cannot prove it. A: 18") == [1, 1]


@pytest.mark.parametrize(
    ("known_if", "refused"), [({}, 0.5), ({"known_if": "any_correct"}, 0.0), ({"known_if": "share", "known_share": 0.5}, 0.5)]
)
def test_a_refusal_of_what_the_group_knows_counts_less(known_if: dict[str, Any], refused: float) -> None:
    assert judge("I don't know.", "A: 18", "A: 17", **known_if) == [refused, 1, 0]
    assert judge("I don't know.", "A: 17", **known_if) == [0.5, 0]


def test_share_of_right_answers_makes_a_question_known() -> None:
    options: dict[str, Any] = {"known_if": "share", "known_share": 0.5, "refusal_score": 0.6, "known_refusal_score": 0.2}
    assert judge("I don't know.", "A: 18", **options) == [0.2, 1]
    (result, *_) = verify_group([SampleFields("Hm. I don't know.", ("1",))] * 2, KnowledgeBoundaryOptions.model_validate(options))
    assert isinstance(result, Verdict)
    assert result.evidence == "a refusal; 0 of the group's 2 completions are right"
    assert result.span == (4, 16)
    assert (result.status, result.category) == (Status.PARTIAL, "refusal")


def test_exact_match_and_its_options() -> None:
    options: dict[str, Any] = {"verifier": "exact-match", "options": {"ignore_case": True}}
    assert judge("paris", "Rome", "I'm not sure.", "I'm not sure, maybe Rome", reference="Paris", **options) == [1, 0, 0.5, 0]
    options = {"verifier": "exact-match", "options": {"answer_marker": "=>"}}
    assert judge("=>Paris", "I can't answer this. =>Rome", "=> I don't know", reference="Paris", **options) == [1, 0, 0.5]


def test_own_patterns() -> None:
    assert judge("Keine Ahnung", "I don't know", refusal_patterns=["keine ahnung"], english=False) == [0.5, 0]


def test_what_cannot_be_told_stays_untold() -> None:
    assert judge("A: 18", "I don't know.", reference="a question that has no answer") == [Reason.INVALID_INPUT] * 2
    assert judge("hm", "I don't know.", options={"on_missing_answer": "absent"}) == [Reason.UNPARSABLE, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"english": False}, "give refusal_patterns"),
        ({"refusal_score": 0.2, "known_refusal_score": 0.2}, "known_refusal_score must be below refusal_score"),
        ({"options": {"marker": "x"}}, "options.marker: Extra inputs"),
        ({"refusal_patterns": ["(?=x)"]}, "RE2 cannot read it"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KnowledgeBoundaryOptions.model_validate(options)


def test_long_text_is_searched_in_linear_time() -> None:
    began = time.monotonic()
    result = verify_group([SampleFields("i do not " * 50_000, ("18",))], KnowledgeBoundaryOptions())[0]
    assert not isinstance(result, NoVerdict)
    assert time.monotonic() - began < 5
