"""Consensus: what counts as one answer, who wins, and when nobody does."""

from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.verifier.verdicts import More, NoVerdict, Reason, SampleFields, Verdict
from rewardmesh.verifier.verifiers.consensus import ConsensusOptions, verify_group


def judge(*completions: str | SampleFields, **options: Any) -> list[float | Reason]:
    """Scores, or reasons where there is none."""
    group = [SampleFields(one) if isinstance(one, str) else one for one in completions]
    results = verify_group(group, ConsensusOptions.model_validate(options))
    return [result.score if isinstance(result, Verdict) else result.reason for result in results]


def written_by(policy: str, *answers: str) -> list[SampleFields]:
    return [SampleFields(f"A: {answer}", more=More(policy=policy)) for answer in answers]


ABSTAINED = Reason.ABSTAINED


@pytest.mark.parametrize(
    ("completions", "scores"),
    [
        (["A: 18", "A: 18.0", "A: 17"], [1, 1, 0]),
        (["\\boxed{\\frac12}", "A: 0.5", "The answer is 50%", "A: 2"], [1, 1, 1, 0]),
        (["\\boxed{2\\sqrt2}", "\\boxed{\\sqrt{8}}", "A: 3"], [1, 1, 0]),
        (["\\boxed{\\{1,2\\}}", "\\boxed{\\{2,1\\}}", "\\boxed{(2,1)}"], [1, 1, 0]),
        (["The answer is B.", "Answer: (b) 12", "Answer: C"], [1, 1, 0]),
        (["A: 1", "A: 2"], [ABSTAINED, ABSTAINED]),
        (["A: 1", "A: 1", "A: 2", "A: 2", "A: 3"], [ABSTAINED] * 5),
        (["A: 1"], [ABSTAINED]),
        (["A: 1", ""], [ABSTAINED, 0]),
        (["", ""], [0, 0]),
        (["A: 1", "A: 1", ""], [1, 1, 0]),
    ],
)
def test_the_answer_of_most_wins(completions: list[str], scores: list[float | Reason]) -> None:
    assert judge(*completions) == scores


def test_share_grades_support() -> None:
    assert judge("A: 1", "A: 1", "A: 1", "A: 2", score="share") == [0.75, 0.75, 0.75, 0.25]
    assert judge("A: 1", "A: 1", score="share") == [1, 1]
    assert judge("A: 1", "A: 2", score="share") == [0.5, 0.5]


def test_a_weak_winner_cannot_tell() -> None:
    answers = ["A: 1", "A: 1", "A: 2", "A: 3"]
    assert judge(*answers, minimum_share=0.5) == [1, 1, 0, 0]
    assert judge(*answers, minimum_share=0.6) == [ABSTAINED] * 4
    assert judge(*answers, minimum_size=5) == [ABSTAINED] * 4


def test_texts_are_compared_after_normalisation() -> None:
    answers = ["The Paris!", "paris", "Rome"]
    options = {"extract": "exact", "ignore_case": True, "remove_punctuation": True, "remove_articles": True, "whitespace": "collapse"}
    assert judge(*answers, **options) == [1, 1, 0]
    assert judge("I say: Paris", "you say: Paris", "Paris", extract="exact", answer_marker="say:") == [1, 1, 0]
    with pytest.raises(ValidationError, match="ignore_case: only for extract: exact"):
        ConsensusOptions(ignore_case=True)


def test_a_missing_answer_can_be_absent() -> None:
    assert judge("A: 1", "A: 1", "no idea", on_missing_answer="absent") == [1, 1, Reason.UNPARSABLE]


def test_confidence_weighs_votes() -> None:
    sure = SampleFields("A: 1", tags={"confidence": "0.9"})
    unsure = SampleFields("A: 2", tags={"confidence": "0.4"})
    assert judge(sure, unsure, unsure, weights="tag") == [1, 0, 0]
    assert judge(sure, unsure, unsure, unsure, weights="tag") == [0, 1, 1, 1]
    assert judge(sure, unsure, SampleFields("A: 2"), weights="tag") == [1, 0, Reason.NOT_APPLICABLE]
    assert judge(sure, unsure, SampleFields("A: 2", tags={"confidence": "nan"}), weights="tag") == [1, 0, Reason.INVALID_INPUT]
    zero = SampleFields("A: 1", tags={"confidence": "0"})
    assert judge(zero, zero, weights="tag") == [ABSTAINED, ABSTAINED]


def test_log_probabilities_weigh_votes() -> None:
    likely, unlikely = SampleFields("A: 1", more=More(mean_log_prob=-0.1)), SampleFields("A: 2", more=More(mean_log_prob=-1.5))
    assert judge(likely, unlikely, unlikely, weights="log_prob") == [1, 0, 0]
    assert judge(likely, SampleFields("A: 2"), weights="log_prob", minimum_size=1) == [1, Reason.NOT_APPLICABLE]


def test_policies_weigh_by_their_self_consistency() -> None:
    # Self-consistency 1 against 2/5: three answers of a policy that agrees with itself outweigh five that do not.
    group = [*written_by("one@1", "7", "7", "7"), *written_by("two@1", "8", "8", "1", "2", "3")]
    assert judge(*group, weights="policy") == [1, 1, 1, 0, 0, 0, 0, 0]
    # Each policy has one say, however much it writes.
    group = [*written_by("one@1", "7"), *written_by("one@2", "7"), *written_by("two@1", *["8"] * 5)]
    assert judge(*group, weights="policy") == [1, 1, 0, 0, 0, 0, 0]
    assert judge(*written_by("one@1", "7"), "A: 7", weights="policy", minimum_size=1) == [1, Reason.NOT_APPLICABLE]


def test_evidence_shows_the_tally() -> None:
    (first, *_, last) = verify_group([SampleFields(f"A: {n}") for n in (1, 1, 2, 3, 4, 5, 6)], ConsensusOptions())
    assert isinstance(first, Verdict)
    assert first.evidence == "answer '1' has 0.286 of the votes: '1' 2, '2' 1, '3' 1, '4' 1, '5' 1, …"
    assert first.extracted_answer == "1"
    assert isinstance(last, Verdict)
    tied = verify_group([SampleFields("A: 1"), SampleFields("A: 2")], ConsensusOptions())[0]
    assert tied == NoVerdict(ABSTAINED, "a tie; votes: '1' 1, '2' 1")
