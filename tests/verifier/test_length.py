"""The length verifier."""

from array import array
from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.length import LengthOptions, verify


def check(text: str, tokens: int | None = None, **options: Any) -> Verdict | NoVerdict:
    ids = None if tokens is None else array("i", range(tokens))
    return verify(SampleFields(text, token_ids=ids), LengthOptions.model_validate(options))


@pytest.mark.parametrize(("length", "score"), [(4, 0.0), (5, 0.25), (7, 0.75), (8, 1.0), (10, 1.0), (11, 0.75), (13, 0.25), (14, 0.0)])
def test_score_falls_linearly_within_the_margin(length: int, score: float) -> None:
    result = check("é" * length, minimum=8, maximum=10, margin=3)
    assert isinstance(result, Verdict)
    assert result.score == pytest.approx(score)
    assert result.status is {0.0: Status.FAIL, 1.0: Status.PASS}.get(score, Status.PARTIAL)


def test_units() -> None:
    for result in (
        check("one two  three", unit="words", minimum=3, maximum=3),
        check("x", 7, unit="tokens", minimum=7),
        check("", maximum=0),
    ):
        assert isinstance(result, Verdict)
        assert result.status is Status.PASS


def test_tokens_without_ids_are_absent() -> None:
    result = check("x", unit="tokens", maximum=5)
    assert isinstance(result, NoVerdict)
    assert result.reason is Reason.NOT_APPLICABLE


@pytest.mark.parametrize("options", [{}, {"minimum": 3, "maximum": 2}, {"minimum": -1}, {"maximum": 1.5}, {"maximum": 3, "margin": -1}])
def test_impossible_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LengthOptions.model_validate(options)
