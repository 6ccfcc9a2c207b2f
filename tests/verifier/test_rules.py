"""The rules verifier: where constraints come from, how they make a score, and what is no verdict."""

import json
from array import array
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.inline import runs_inline
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.rules import VERIFIER, RulesOptions, verify

NO_COMMA = {"id": "punctuation:no_comma"}
THREE_WORDS = {"id": "length_constraints:number_words", "num_words": 3, "relation": "at least", "weight": 3}
GERMAN = {"id": "language:response_language", "language": "de"}
IFEVAL = json.dumps(
    {
        "instruction_id_list": ["punctuation:no_comma", "keywords:frequency"],
        "kwargs": [{}, {"keyword": "dog", "frequency": 2, "relation": "at least", "num_words": None}],
    }
)


def check(text: str, *references: str, tokens: int | None = None, **options: Any) -> Verdict | NoVerdict:
    ids = None if tokens is None else array("i", range(tokens))
    return verify(SampleFields(text, references, token_ids=ids), RulesOptions.model_validate(options))


def score(result: Verdict | NoVerdict) -> float | str:
    return result.score if isinstance(result, Verdict) else result.reason.value


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("one two three", {}, 1.0),
        ("one, two", {}, 0.0),
        ("one, two three", {}, 0.75),
        ("one two", {}, 0.25),
        ("one two", {"grading": "all"}, 0.0),
        ("one two three", {"grading": "all"}, 1.0),
        ("Well, look:\none two three", {"loose": True}, 1.0),
    ],
)
def test_the_score_is_the_share_of_the_weight(text: str, options: dict[str, Any], expected: float) -> None:
    assert score(check(text, constraints=[NO_COMMA, THREE_WORDS], **options)) == expected


def test_every_constraint_is_a_step_and_the_first_broken_one_decides() -> None:
    result = check("one two\nthree, four", constraints=[THREE_WORDS, NO_COMMA])
    assert isinstance(result, Verdict)
    assert [(step.step, step.status, step.score) for step in result.steps] == [(0, Status.PASS, 1.0), (1, Status.FAIL, 0.0)]
    assert result.steps[0].evidence == "length_constraints:number_words: 4 words; at least 3 wanted"
    assert (result.status, result.category, result.span) == (Status.PARTIAL, "punctuation", (13, 14))
    assert result.evidence == "1 of 2 broken: punctuation:no_comma: a comma at 13"


@pytest.mark.parametrize(
    ("references", "options", "expected"),
    [
        ((IFEVAL,), {"source": "reference"}, 0.5),
        ((IFEVAL,), {"source": "both", "constraints": [{**NO_COMMA, "weight": 2}]}, 0.75),
        ((json.dumps({"constraints": [NO_COMMA]}), "not read"), {"source": "reference"}, 1.0),
        ((), {"source": "reference"}, "NOT_APPLICABLE"),
        ((), {"source": "both"}, "NOT_APPLICABLE"),
    ],
)
def test_constraints_of_the_sample(references: tuple[str, ...], options: dict[str, Any], expected: float | str) -> None:
    assert score(check("one dog", *references, **options)) == expected


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("a gold answer", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be an object"),
        ("{}", "two lists of the same length"),
        ('{"constraints": []}', "at least one"),
        ('{"constraints": {"id": "punctuation:no_comma"}}', "must be a list"),
        ('{"constraints": ["punctuation:no_comma"]}', 'constraints[0]: must be an object with an "id"'),
        ('{"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}', "nearest is 'punctuation:no_comma'"),
        ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"commas": 1}]}', "commas: unknown argument; known: weight"),
        ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}', "same length"),
        ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": ["x"]}', "must hold objects"),
        (
            '{"constraints": [{"id": "keywords:frequency", "keyword": "a", "frequency": "many"}]}',
            "frequency: Input should be a valid integer",
        ),
        ('{"constraints": [{"id": "language:response_language", "language": "tlh"}]}', "unknown language 'tlh'"),
        ('{"constraints": [{"id": "format:json_schema", "json_schema": {"type": "number "}}]}', "is no JSON Schema"),
        ('{"constraints": [{"id": "format:json_schema", "json_schema": {"$ref": "http://127.0.0.1:1/x"}}]}', "is no JSON Schema"),
        ('{"constraints": [{"id": "markdown:tables", "minimum": 2, "maximum": 1}]}', "greater than maximum"),
    ],
)
def test_an_unreadable_reference_is_invalid_input(reference: str, words: str) -> None:
    result = check("x", reference, source="reference")
    assert isinstance(result, NoVerdict)
    assert result.reason is Reason.INVALID_INPUT
    assert result.detail.startswith("references[0]: ")
    assert words in result.detail


@pytest.mark.parametrize(
    ("text", "constraints", "grading", "expected"),
    [
        ("ok", [GERMAN], "all", "ABSTAINED"),
        ("ok", [GERMAN, NO_COMMA], "fraction", "ABSTAINED"),
        ("ok", [GERMAN, NO_COMMA], "all", "ABSTAINED"),
        ("ok,", [GERMAN, NO_COMMA], "all", 0.0),
        ("Das ist ein ganz gewöhnlicher Satz auf Deutsch. This one, however, is written in plain English.", [GERMAN], "all", "ABSTAINED"),
        ("ok", [{"id": "length:bounds", "unit": "tokens", "maximum": 3}], "all", "NOT_APPLICABLE"),
    ],
)
def test_what_cannot_be_told_is_no_verdict_when_it_decides(text: str, constraints: list[Any], grading: str, expected: float | str) -> None:
    assert score(check(text, constraints=constraints, grading=grading)) == expected


def test_tokens_are_those_of_the_sample() -> None:
    assert score(check("x", tokens=4, constraints=[{"id": "length:bounds", "unit": "tokens", "maximum": 3}])) == 0


@pytest.mark.parametrize(
    ("options", "location", "words"),
    [
        ({}, (), "at least one"),
        ({"source": "reference", "constraints": [NO_COMMA]}, (), "source to both"),
        ({"constraints": [NO_COMMA, {"id": "keyword:existence"}]}, ("constraints", 1), "nearest is 'keywords:existence'"),
        ({"constraints": [{"id": "format:regex", "pattern": "(?=x)"}]}, ("constraints", 0), "RE2 cannot read it"),
        ({"constraints": [{**NO_COMMA, "weight": 0}]}, ("constraints", 0), "weight: Input should be greater than or equal to 0.001"),
        ({"constraints": [NO_COMMA], "grading": "some"}, ("grading",), "'fraction' or 'all'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], location: tuple[str | int, ...], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RulesOptions.model_validate(options)
    (error,) = caught.value.errors()
    assert error["loc"] == location
    assert words in error["msg"]


@pytest.mark.parametrize(
    ("options", "inline"),
    [
        ({"constraints": [NO_COMMA, THREE_WORDS]}, True),
        ({"constraints": [GERMAN]}, False),
        ({"constraints": [{"id": "format:json_schema", "json_schema": {}}]}, False),
        ({"constraints": [{"id": "format:regex", "pattern": "x" * 3000}]}, False),
        ({"constraints": [NO_COMMA] * 7}, False),
        ({"constraints": [NO_COMMA], "loose": True}, False),
        ({"constraints": [{"id": "length_constraints:number_sentences", "num_sentences": 2}]}, False),
        ({"source": "both", "constraints": [NO_COMMA]}, False),
    ],
)
def test_only_cheap_constraints_of_the_call_run_inline(options: dict[str, Any], inline: bool) -> None:
    assert runs_inline(VERIFIER, SampleFields("x" * 10_000), RulesOptions.model_validate(options)) is inline


async def test_steps_and_categories_travel_from_here_and_from_workers(start: Any, request_of: Any) -> None:
    _, stub = await start()
    schema = {"id": "format:json_schema", "json_schema": {"type": "object"}}
    for constraints, family in (
        ([NO_COMMA, {"id": "startend:quotation"}], "punctuation"),
        ([schema, {"id": "startend:quotation"}], "format"),
    ):
        outcome = (await stub.Verify(request_of("rules", ['"a, é"'], constraints=constraints), timeout=20)).outcomes[0]
        assert (outcome.verdict.status, outcome.verdict.score) == (verifier_pb.VERDICT_STATUS_PARTIAL, 0.5)
        assert outcome.verdict.category == family
        assert [(step.step, step.status, step.score) for step in outcome.verdict.steps] == [(0, 2, 0.0), (1, 1, 1.0)]
        assert outcome.verdict.steps[1].evidence == "startend:quotation: in double quotation marks"


async def test_mistakes_of_the_call_name_their_place(start: Any, request_of: Any) -> None:
    _, stub = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Verify(request_of("rules", ["x"], constraints=[NO_COMMA, {"id": "punctuation:comma"}]), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "options.constraints[1]: unknown constraint 'punctuation:comma'" in (caught.value.details() or "")


async def test_constraints_of_samples_are_checked_side_by_side(start: Any, request_of: Any) -> None:
    _, stub = await start()
    request = request_of("rules", ["one dog", "dog dog", "dog", "Das ist ja wohl ein deutscher Satz."], IFEVAL, source="reference")
    request.samples[2].references[:] = ["nothing"]
    request.samples[3].references[:] = [json.dumps({"constraints": [GERMAN]})]
    outcomes = (await stub.Verify(request, timeout=20)).outcomes
    assert [one.verdict.score if one.HasField("verdict") else one.absence.reason for one in outcomes] == [0.5, 1.0, 4, 1.0]
