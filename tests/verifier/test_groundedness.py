"""The groundedness verifier: claims, citations, and a small labelled set."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.verifier.passages import passage, support
from rewardmesh.verifier.sentences import sentences
from rewardmesh.verifier.verdicts import More, NoVerdict, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.groundedness import GroundednessOptions, claims_of, verify

LIGHTHOUSE = (
    "The lighthouse on Varn Island was built in 1874 by the engineer Maria Holt. It is 41 metres high and its light reaches 22 nautical "
    "miles.",
    "In 1931 the lamp was changed from oil to electricity. The keeper said: “Nobody missed the smell of the oil.” The tower was not "
    "damaged in the storm of 1953. About 12,500 people visit it each year.",
)
LABELLED = [
    (True, "The lighthouse was built in 1874."),
    (True, "Maria Holt built the lighthouse on Varn Island."),
    (True, "Its light reaches 22 nautical miles, and the tower is 41 metres high."),
    (True, "Electricity replaced oil in the lamp in 1931."),
    (True, "About 12500 people visit each year."),
    (True, "The storm of 1953 did not damage the tower."),
    (True, 'The keeper said that "nobody missed the smell".'),
    (True, "The engineer was Maria Holt."),
    (True, "Visitors number about 12,500 people a year."),  # two of six words are other words
    (True, "Keepers burned oil until the lamp became electric."),  # a paraphrase: beyond words
    (False, "The lighthouse was built in 1847."),
    (False, "Peter Holt built the lighthouse on Varn Island."),
    (False, "The tower was damaged in the storm of 1953."),
    (False, "The light reaches 41 nautical miles and 90 ships."),
    (False, "The lighthouse stands in Norway and was built in 1874."),
    (False, 'The keeper said "everybody missed the smell of the oil".'),
    (False, "Tourists pay an entrance fee for the museum."),
    (False, "The lamp was changed from oil to gas and later to lasers."),
    (False, "The light reaches 41 nautical miles."),  # the passage's words in another order: beyond words
]


def check(text: str, notes: tuple[str, ...] = LIGHTHOUSE, references: tuple[str, ...] = (), **options: Any) -> Verdict | NoVerdict:
    return verify(SampleFields(text, references, more=More(notes=notes)), GroundednessOptions.model_validate(options))


def test_precision_and_recall_on_labelled_claims() -> None:
    outcome = [(label, check(claim)) for label, claim in LABELLED]
    passed = [label for label, result in outcome if isinstance(result, Verdict) and result.status is Status.PASS]
    missed = [claim for (label, claim), (_, result) in zip(LABELLED, outcome, strict=True) if label and result.score < 1]  # type: ignore[union-attr]
    precision, recall = sum(passed) / len(passed), sum(passed) / sum(label for label, _ in LABELLED)
    assert precision >= 8 / 9
    assert recall >= 0.8, missed


@pytest.mark.parametrize(
    ("text", "score", "category"),
    [
        ("The lighthouse was built in 1874 [1].", 1.0, ""),
        ("The lighthouse was built in 1874.[1] The lamp runs on electricity, not oil, since 1931 [2].", 1.0, ""),
        ("The lighthouse was built in 1874 [2].", 0.0, "unsupported"),
        ("The lighthouse was built in 1874 [3].", 0.0, "unresolved-citation"),
        ("The lighthouse was built in 1874 [0].", 0.0, "unresolved-citation"),
        ("The lighthouse was built in 1874 [1]. The lamp was changed in 1932 [2].", 0.5, "unsupported"),
        ('The keeper said "everybody missed the smell of it" [2].', 0.0, "misquoted"),
        ('The keeper said "Nobody missed … the oil" [2].', 1.0, ""),
        ("The tower was damaged in the storm of 1953 [2].", 0.0, "negation"),
    ],
)
def test_every_claim_is_held_against_what_it_cites(text: str, score: float, category: str) -> None:
    result = check(text, check_negation="electricity" not in text)
    assert isinstance(result, Verdict)
    assert (result.score, result.category) == (score, category), result.evidence


def test_steps_and_span_of_the_first_failure() -> None:
    text = "Sure! The lighthouse was built in 1874 [1].\n\nIt has 300 stairs inside [2]."
    result = check(text)
    assert isinstance(result, Verdict)
    assert result.span is not None
    assert text[slice(*result.span)] == "It has 300 stairs inside [2]."
    assert [(step.step, step.score) for step in result.steps] == [(0, 1.0), (1, 0.0)]
    assert "300" in result.steps[1].evidence
    assert result.evidence.startswith("1 of 2 claims are supported; 1 of 2 citations matter; first: ")


def test_uncited_claims_count_when_citations_are_required() -> None:
    text = "The lighthouse was built in 1874. Maria Holt built the lighthouse [1]."
    assert check(text).score == 1  # type: ignore[union-attr]
    result = check(text, require_citations=True)
    assert isinstance(result, Verdict)
    assert (result.score, result.category) == (0.5, "uncited")


def test_a_needless_citation_costs_precision() -> None:
    text = "The lighthouse on Varn Island was built in 1874 [1, 2]. The lamp was changed to electricity in 1931 [2]."
    assert check(text).score == 1  # type: ignore[union-attr]
    result = check(text, score="f1")
    assert isinstance(result, Verdict)
    assert result.score == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    assert result.category == "needless-citation"
    both = check("Maria Holt built it in 1874 and people changed the lamp to electricity in 1931 [1-2].", score="f1")
    assert both.score == 1  # type: ignore[union-attr]


def test_options_change_what_counts() -> None:
    text = "The lighthouse was built in 1899 (source: 1)."
    pattern = r"\(source: (\d+)\)"
    assert check(text, citation_pattern=pattern).score == 0  # type: ignore[union-attr]
    assert check(text, citation_pattern=pattern, check_facts=False).score == 1  # type: ignore[union-attr]
    assert check(text, citation_pattern=pattern, check_facts=False, min_recall=1).score == 0  # type: ignore[union-attr]
    negated = "The lighthouse was not built in 1874."
    assert check(negated).score == 0  # type: ignore[union-attr]
    assert check(negated, check_negation=False).score == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (check("The lighthouse was built in 1874.", notes=()), "NOT_APPLICABLE"),
        (check(""), "ABSTAINED"),
        (check("Sure! Is it the lighthouse on Varn Island?"), "ABSTAINED"),
        (check("The lighthouse was built in 1874. " * 401), "TOO_LONG"),
    ],
)
def test_no_verdict(result: Verdict | NoVerdict, reason: str) -> None:
    assert isinstance(result, NoVerdict)
    assert result.reason.value == reason


def test_references_are_the_passages_of_a_sample_without_notes() -> None:
    text = "The lighthouse was built in 1874 [2]."
    assert check(text, notes=(), references=LIGHTHOUSE[::-1]).score == 1  # type: ignore[union-attr]
    assert check(text, references=LIGHTHOUSE[::-1]).score == 0  # type: ignore[union-attr]


def test_claims_in_other_scripts() -> None:
    assert check("灯塔建于1874年。高41米。", notes=("这座灯塔建于1874年，高41米。",)).score == 1  # type: ignore[union-attr]
    assert check("灯塔建于1875年。", notes=("这座灯塔建于1874年，高41米。",)).score == 0  # type: ignore[union-attr]
    assert check("Der Turm wurde 1874 gebaut.", notes=("Gebaut wurde der Turm 1874.",)).score == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("pattern", [r"\[\d+\]", r"\[(\d+)(,)\]", "(", ""])
def test_a_citation_pattern_has_one_group(pattern: str) -> None:
    with pytest.raises(ValidationError):
        GroundednessOptions.model_validate({"citation_pattern": pattern})


@pytest.mark.parametrize(
    "text", ["[1]" * 30_000, "[1-9999]" * 9_000, "a. " * 50_000, "[1] " + "x " * 60_000, '"' * 100_000, "A [1-64]. " * 9_000]
)
def test_hostile_text_takes_little_time(text: str) -> None:
    began = time.process_time()
    check(text, score="f1")
    assert time.process_time() - began < 1.5


def test_support_names_what_is_missing() -> None:
    found = support('Ada Holt said "so it was" in two parts, 1,000 of 3.', [passage("Holt, in 2 parts of 1000")])
    assert found.missing == ("Ada", "3", "so it was")
    assert found.misquoted
    assert support("x", []).recall == 0


def test_citations_do_not_part_sentences() -> None:
    (claim,) = claims_of("Dr. Holt [1] built, in 1874 [2, 4-5], the tower [6]. [7]", GroundednessOptions())
    assert claim.text == "Dr. Holt built, in 1874, the tower."
    assert claim.cited == (1, 2, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("One. Two! Three? Four… Five", 5),
        ("Mr. X. Lee paid $3.50 at 5 p.m. on the U.S. coast.", 1),
        ("It was I. Then he came.", 2),
        ("1. First\n2. Second one. More.\n\n- a\r\n- b", 5),
        ("# Title\nText goes\non here.", 2),
        ("He said “Go.” She went.", 2),
    ],
)
def test_sentences(text: str, count: int) -> None:
    spans = sentences(text)
    assert len(spans) == count, [text[slice(*span)] for span in spans]
    assert spans == sorted(spans)


async def test_notes_travel_and_absence_is_typed(start: Any) -> None:
    from rewardmesh.v1 import verifier_service_pb2 as verifier_pb

    _, stub = await start()
    completion = pb.Completion(text="The lighthouse was built in 1874 [1]. It has 300 stairs inside [1].")
    samples = [pb.Sample(id="a", completion=completion, context=pb.Context(notes=LIGHTHOUSE)), pb.Sample(id="b", completion=completion)]
    response = await stub.Verify(verifier_pb.VerifyRequest(verifier="groundedness", samples=samples), timeout=20)
    first, second = response.outcomes
    assert (first.verdict.score, first.verdict.category, len(first.verdict.steps)) == (0.5, "unsupported", 2)
    assert second.absence.reason == pb.ABSENCE_REASON_NOT_APPLICABLE
