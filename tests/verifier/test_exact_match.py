"""Exact match and containment, and the normalisation under both."""

import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.verifier.normalisation import NormalisationOptions
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers import contains, exact_match

SQUAD: dict[str, Any] = {"ignore_case": True, "remove_punctuation": True, "remove_articles": True, "whitespace": "collapse"}


def exact(text: str, *references: str, **options: Any) -> Verdict:
    return exact_match.verify(SampleFields(text, references), exact_match.ExactMatchOptions.model_validate(options))


def mentions(text: str, *references: str, **options: Any) -> Verdict | NoVerdict:
    return contains.verify(SampleFields(text, references), contains.ContainsOptions.model_validate(options))


def found(text: str, *references: str, **options: Any) -> bool:
    result = mentions(text, *references, **options)
    assert isinstance(result, Verdict), result
    return result.status is Status.PASS


@pytest.mark.parametrize(
    ("text", "reference", "options", "passes"),
    [
        ("Paris", "Paris", {}, True),
        (" Paris\n", "Paris", {}, True),
        (" Paris\n", "Paris", {"whitespace": "keep"}, False),
        ("New  York", "New York", {}, False),
        ("New\n York", "New York", {"whitespace": "collapse"}, True),
        ("paris", "Paris", {}, False),
        ("STRASSE", "Straße", {"ignore_case": True}, True),
        ("Paris.", "Paris", {}, False),
        ("Paris.", "Paris", {"remove_punctuation": True}, True),
        ("The  Eiffel Tower!", "eiffel tower", SQUAD, True),
        ("Another tower", "other tower", SQUAD, False),
        ("", "", {}, True),
    ],
)
def test_what_counts(text: str, reference: str, options: dict[str, Any], passes: bool) -> None:
    result = exact(text, reference, **options)
    assert (result.status, result.score) == ((Status.PASS, 1.0) if passes else (Status.FAIL, 0.0))


def test_answer_behind_the_last_marker() -> None:
    assert exact("Answer: no. Answer: Paris", "Paris", answer_marker="Answer:").extracted_answer == "Paris"
    missing = exact("Paris", "Paris", answer_marker="Answer:")
    assert (missing.status, missing.evidence) == (Status.FAIL, "the completion does not contain the marker 'Answer:'")


def test_any_reference_may_match_and_evidence_is_short() -> None:
    assert exact("b", "a", "b").evidence == "'b' equals reference 'b'"
    assert exact("x", "a", "b", "c", "d", "e").evidence == "'x' does not equal reference 'a' or 'b' or 'c' or 2 others"
    long = exact("x" * 100_000, "y" * 100_000)
    assert len(long.evidence) < 1000
    assert long.extracted_answer == ""


@given(st.text(alphabet=string.ascii_letters + string.punctuation + " \n\tthean", max_size=40))
def test_squad_options_are_the_published_normalisation(text: str) -> None:
    """The definition of the paper's evaluation: lower case, no punctuation, no articles, single spaces."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    assert NormalisationOptions.model_validate(SQUAD).normalise(text) == " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def test_mentions() -> None:
    assert found("It is Paris, of course.", "London", "Paris")
    assert not found("It is Paris, of course.", "London", "Rome")
    assert not found("It is paris.", "Paris")
    assert found("It is paris.", "Paris", ignore_case=True)
    assert found("red and green", "green", "red", wanted="all")
    assert not found("red and blue", "green", "red", wanted="all")


@pytest.mark.parametrize(
    ("text", "reference", "passes"),
    [
        ("a party", "art", False),
        ("an art", "art", True),
        ("xa a a", "a a", True),
        ("state-of-the-art", "art", True),
        ("it costs -5", "-5", True),
        ("it costs -50", "-5", False),
        ("aaaa", "aa", False),
        ("New York City", "York City", True),
        ("New Yorks City", "York City", False),
    ],
)
def test_whole_words(text: str, reference: str, passes: bool) -> None:
    assert found(text, reference, whole_words=True) is passes


def test_an_empty_reference_is_no_reference() -> None:
    result = mentions("anything", "...", remove_punctuation=True)
    assert isinstance(result, NoVerdict)
    assert result.reason is Reason.INVALID_INPUT
