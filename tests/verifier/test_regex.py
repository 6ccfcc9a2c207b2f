"""The regex verifier."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.verifier.inline import runs_inline
from rewardmesh.verifier.verdicts import SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.regex import VERIFIER, RegexOptions, verify


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


@pytest.mark.parametrize("engine", ["re2", "python"])
def test_whole(engine: str) -> None:
    assert check("yes", must_match=["yes|no"], whole=True, engine=engine).score == 1
    assert check("yes!", must_match=["yes|no"], whole=True, engine=engine).score == 0


@pytest.mark.parametrize(("engine", "text"), [("re2", "né 12 né"), ("python", "né 12 né"), ("re2", "\r\n\U0001f600 12"), ("re2", "12")])
def test_spans_are_in_code_points(engine: str, text: str) -> None:
    span = check(text, must_match=[r"\d+"], engine=engine).span
    assert span is not None
    assert text[slice(*span)] == "12"


def test_a_pattern_that_hangs_other_engines_is_linear() -> None:
    began = time.process_time()
    assert check("a" * 2**20 + "!", must_match=["^(a+)+$"]).score == 0
    assert time.process_time() - began < 1


@pytest.mark.parametrize("pattern", [r"(?=a)b", r"(a)\1", "a++", "(?<!a)b"])
def test_what_re2_lacks_is_named_with_the_remedy(pattern: str) -> None:
    with pytest.raises(ValidationError, match="engine: python"):
        RegexOptions.model_validate({"must_match": [pattern]})
    assert check("aab", must_match=[pattern], engine="python").status is (Status.FAIL if pattern.startswith("(?") else Status.PASS)


def test_only_small_patterns_of_the_linear_engine_run_inline() -> None:
    sample = SampleFields("x")
    for options, inline in (
        ({"must_match": ["a+b"]}, True),
        ({"must_match": ["a+b"], "engine": "python"}, False),
        ({"must_not_match": ["a", "x" * 3000]}, False),
    ):
        assert runs_inline(VERIFIER, sample, RegexOptions.model_validate(options)) is inline


async def test_both_engines_agree_through_the_service(start: Any, request_of: Any) -> None:
    _, stub = await start(item_timeout_seconds=1.0)
    texts = ["<think>\nx</think> 5", "5", "", "é" * 70_000 + "<think></think>"]
    found = [
        await stub.Verify(request_of("regex", texts, must_match=["<think>.*</think>"], flags=["dot_all"], engine=engine), timeout=20)
        for engine in ("re2", "python")
    ]
    first, second = ([(one.verdict.status, one.verdict.location.span.start) for one in response.outcomes] for response in found)
    assert first == second
    assert [status for status, _ in first] == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("options", "location"),
    [
        ({}, ()),
        ({"must_match": ["ok", "("]}, ("must_match", 1)),
        ({"must_match": ["a"], "flags": ["verbose"]}, ("flags", 0)),
        ({"must_match": [""]}, ("must_match", 0)),
        ({"must_match": ["a{9999}"]}, ("must_match", 0)),
        ({"must_match": ["(" * 3000 + ")" * 3000], "engine": "python"}, ("must_match", 0)),
        ({"must_match": ["a"], "engine": "pcre"}, ("engine",)),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], location: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        RegexOptions.model_validate(options)
    assert caught.value.errors()[0]["loc"] == location
