"""The math verifier: what counts as the answer, what equals what, and agreement with people's labels."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from benchmarks.verifiers.agreement import LABELLED
from benchmarks.verifiers.explained import EXPLAINED
from pydantic import ValidationError

from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.math import MathOptions, verify

EXAMPLES = [json.loads(line) for line in (LABELLED / "math.jsonl").read_text(encoding="utf-8").splitlines()]


def check(completion: str, *references: str, **options: Any) -> Verdict | NoVerdict:
    return verify(SampleFields(completion, references), MathOptions.model_validate(options))


def passes(completion: str, *references: str) -> bool:
    result = check(completion, *references)
    assert isinstance(result, Verdict), result
    return result.status is Status.PASS


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("#### 18", "18"),
        ("The answer is $18.00 per day.", "9 * 2 = 18\n#### 18"),
        ("A: 1,234", "1234"),
        ("A: 1,234.50", "1234.5"),
        ("The answer is **18**.", "18"),
        ("The answer is 18!", "18"),
        ("The answer is:\n\n$$18$$", "18"),
        ("The answer is 18 because she sells 9 eggs at 2 each.", "18"),
        ("Answer: she makes $18.", "18"),
        ("A: 3 * 6 = 18 dollars", "18"),
        ("A: $1,200 - $200 = $1,000", "1000"),
        ("She has 5 apples and 3 pears, so 8.", "8"),
        ("The answer is 50%", "50"),
        ("The answer is 50%", "0.5"),
        ("50 percent", "50%"),
        ("A: −7", "-7"),
        ("A: -$7", "-7"),
        ("Answer: 3 1/2", "3.5"),
        ("0.333333", "1/3"),
        ("A: 5 million", "5000000"),
        ("A: 1e3", "1000"),
        ("\\boxed{1{,}000}", "1000"),
        ("\\boxed{18\\text{ dollars}}", "18"),
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("\\boxed{\\frac12}", "1/2"),
        ("The final answer is \\boxed{12}. I hope it is correct.", "12"),
        ("\\boxed{5}. The answer is correct.", "5"),
        ("\\boxed{5}\n\\boxed{6}", "6"),
        ("so x = 5", "5"),
        ("\\boxed{x=5}", "5"),
        ("\\boxed{5!}", "120"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{(x+1)^2}", "x^2+2x+1"),
        ("$\\sqrt{8}$", "2\\sqrt{2}"),
        ("The answer is \\(\\{1,2\\}\\)", "$\\{2,1\\}$"),
        ("$x \\in (1,2)$", "(1,2)"),
        ("A: 16 - 3", "13"),
    ],
)
def test_equal_answers_pass(completion: str, reference: str) -> None:
    assert passes(completion, reference)


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("A: 7", "-7"),
        ("A: 100", "1"),
        ("0.33", "1/3"),
        ("\\boxed{5}\n\\boxed{6}", "5"),
        ("The answer is 18 because she sells 9 eggs at 2 each.", "2"),
        ("\\boxed{2\\pi}", "2"),
        ("Answer: 2pi", "2"),
        ("Answer: 5x", "5"),
        ("A: 5-3", "5"),
        ("A: 18, 20", "18"),
        ("A: 3 or 4", "3"),
        ("\\boxed{x^2+2x+2}", "(x+1)^2"),
        ("#### 1/0", "18"),
        ("#### " + "9" * 5000, "18"),
        ("A: " + "(" * 5000 + "1" + ")" * 5000, "18"),
        ("$" + "(" * 400 + "1" + ")" * 400 + "$", "18"),
        ("", "18"),
        ("I do not know.", "18"),
    ],
)
def test_other_answers_fail(completion: str, reference: str) -> None:
    assert not passes(completion, reference)


def test_verdict_says_what_was_compared_and_where() -> None:
    result = check("Two plus three.\nA: $5.0", "5")
    assert isinstance(result, Verdict)
    assert result.extracted_answer == "5"
    assert result.span == (19, 23)
    assert result.evidence == "answer '5' (after 'A:') equals reference '5'"


def test_any_reference_may_match() -> None:
    assert passes("#### 4", "3", "4")
    assert not passes("#### 5", "3", "4")


def test_unreadable_references_are_absent_unless_one_is_readable() -> None:
    result = check("#### 4", "no number at all")
    assert isinstance(result, NoVerdict)
    assert result.reason is Reason.INVALID_INPUT
    assert passes("#### 4", "no number at all", "4")


def test_own_marker() -> None:
    assert check("Answer: 3\n=> 4", "4", answer_marker="=>") == check("Answer: 9\n=> 4", "4", answer_marker="=>")
    missing = check("Answer: 4", "4", answer_marker="=>")
    assert isinstance(missing, Verdict)
    assert missing.status is Status.FAIL


def test_missing_answer_can_be_absent() -> None:
    result = check("I do not know.", "18", on_missing_answer="absent")
    assert isinstance(result, NoVerdict)
    assert result.reason is Reason.UNPARSABLE


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in EXAMPLES}))
def test_agrees_with_the_labelled_forms_of_answers(kind: str) -> None:
    rows = [row for row in EXAMPLES if row["kind"] == kind]
    assert {row["wanted"] for row in rows} == {"pass", "fail"}
    for row in rows:
        result = check(row["completion"], *row["references"], **row["options"])
        assert isinstance(result, Verdict)
        assert result.status.value == row["wanted"], (row, result.evidence)


@pytest.mark.parametrize(
    ("completion", "reference", "score"),
    [
        ("A: 100", "100", 1),
        ("A: 105", "100", 0.5),
        ("A: 98", "100", 0.8),
        ("A: 110", "100", 0),
        ("A: 90.5", "100", 0.05),
        ("A: x^2", "9", 0),
    ],
)
def test_a_graded_score_falls_with_the_distance(completion: str, reference: str, score: float) -> None:
    result = check(completion, reference, relative_tolerance=0.1, graded=True)
    assert isinstance(result, Verdict)
    assert result.score == pytest.approx(score)
    assert result.status is (Status.PASS if score == 1 else Status.PARTIAL if score else Status.FAIL)


def test_the_nearest_reference_counts() -> None:
    result = check("A: 7", "10", "8", "6.5", absolute_tolerance=2, graded=True)
    assert isinstance(result, Verdict)
    assert result.score == pytest.approx(0.75)
    assert result.evidence == "answer '7' (after 'A:') is near reference '6.5': 0.75 of the tolerance is left"


def test_numbers_beyond_floats_are_compared_exactly() -> None:
    huge = "9" * 380
    assert passes(f"A: {huge}", huge)
    result = check(f"A: {huge}8", huge, relative_tolerance=0.1)
    assert isinstance(result, Verdict)
    assert result.status is Status.FAIL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graded": True}, "graded needs absolute_tolerance or relative_tolerance"),
        ({"relative_tolerance": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MathOptions.model_validate(options)


def test_evidence_says_what_is_wrong_with_the_unit() -> None:
    for answer, why in (("5", "the unit is missing"), ("5 kg", "the unit is another")):
        result = check(f"A: {answer}", "5 m", units="require")
        assert isinstance(result, Verdict)
        assert result.evidence.endswith(why)


GRADED = [
    ("Tom has 3 boxes of 12 pens, 3*12=<<3*12=36>>36.\n#### 36", "3 boxes hold 3*12=<<3*12=36.0>>36 pens.\nA: 36", True),
    ("Tom has 3 boxes of 12 pens, 3*12=<<3*12=36>>36.\n#### 36", "3 + 12 = <<3+12=15>>15\nA: 15", False),
    ("A ticket costs $4.50, so two cost $<<2*4.5=9>>9.\n#### 9", "2 * $4.50 = $<<2*4.5=9.00>>9.00\nA: 9.00", True),
    ("A ticket costs $4.50, so two cost $<<2*4.5=9>>9.\n#### 9", "2 * $4.50 = $8.90\nA: 8.9", False),
    ("The farm sells 1500 eggs.\n#### 1,500", "They sell 1500 eggs\nA: 1500", True),
    ("The farm sells 1500 eggs.\n#### 1,500", "They sell 150 eggs\nA: 150", False),
    ("Half of 5 is 2.5 miles.\n#### 2.5", "5/2 = <<5/2=2.5>>2.5 miles\nA: 5/2", True),
    ("Half of 5 is 2.5 miles.\n#### 2.5", "5/2 = 2 miles\nA: 2", False),
    ("She keeps 20% of 50 = <<.2*50=10>>10.\n#### 10", "50*.20 = <<50*.20=10.0>>10.0 dollars\nA: $10", True),
    ("She keeps 20% of 50 = <<.2*50=10>>10.\n#### 10", "20% of 50 is 10, so 50 - 10 = <<50-10=40>>40\nA: 40", False),
    ("He owes 12 - 20 = <<12-20=-8>>-8.\n#### -8", "12-20=<<12-20=-8>>-8\nA: -8", True),
    ("He owes 12 - 20 = <<12-20=-8>>-8.\n#### -8", "20-12=<<20-12=8>>8\nA: 8", False),
]


def test_agrees_with_labels_in_the_style_of_gsm8k() -> None:
    assert [passes(completion, reference) for reference, completion, _ in GRADED] == [label for _, _, label in GRADED]


def test_agrees_with_the_labels_of_gsm8k() -> None:
    folder = os.environ.get("REWARDMESH_DATA")
    if not folder:
        pytest.skip("REWARDMESH_DATA is not set: it names the folder with gsm8k_model_answers.jsonl")
    rows = [json.loads(line) for line in (Path(folder) / "gsm8k_model_answers.jsonl").read_text().splitlines()]
    different = [
        f"{place}/{answer['model']}"
        for place, row in enumerate(rows)
        for answer in row["answers"]
        if passes(answer["solution"], row["reference"]) != answer["is_correct"]
    ]
    assert set(different) == set(EXPLAINED)
