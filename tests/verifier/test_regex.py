"""The regex verifier."""

from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.verifier.verdicts import SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.regex import RegexOptions, verify


def check(text: str, **options: Any) -> Verdict:
    return verify(SampleFields(text), RegexOptions.model_validate(options))


def test_all_conditions_must_hold() -> None:
    options = {"must_match": ["<think>.*</think>", r"####\s*\d+"], "must_not_match": ["sorry"], "flags": ["dot_all", "ignore_case"]}
    good = check("<think>\nhm\n</think>\n#### 5", **options)
    assert good.status is Status.PASS
    assert good.span == (0, 19)
    assert check("#### 5", **options).evidence == "must_match[0] '<think>.*</think>' was not found"
    bad = check("<think></think> Sorry #### 5", **options)
    assert bad.status is Status.FAIL
    assert bad.span == (16, 21)


def test_whole() -> None:
    assert check("yes", must_match=["yes|no"], whole=True).score == 1
    assert check("yes!", must_match=["yes|no"], whole=True).score == 0


@pytest.mark.parametrize(
    ("options", "location"),
    [
        ({}, ()),
        ({"must_match": ["ok", "("]}, ("must_match", 1)),
        ({"must_match": ["a"], "flags": ["verbose"]}, ("flags", 0)),
        ({"must_match": [""]}, ("must_match", 0)),
        ({"must_match": ["(" * 3000 + ")" * 3000]}, ("must_match", 0)),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], location: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        RegexOptions.model_validate(options)
    assert caught.value.errors()[0]["loc"] == location
