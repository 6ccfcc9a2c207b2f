"""The trajectory verifier: calls, plans, answers, steps."""

import json
import re
import time
from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.plans import WantedCall, as_prefix, in_any_order, in_order, same
from rewardmesh.verifier.tool_calls import Call, from_messages, from_tags
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers.trajectory import TrajectoryOptions, verify

TOOLS = {
    "search": {"type": "object", "properties": {"q": {"type": "string"}, "n": {"type": "integer"}}, "required": ["q"]},
    "add": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]},
}
SEARCH = {"name": "search", "arguments": {"q": "dogs"}}
ADD = {"name": "add", "arguments": {"a": 1, "b": 2}}


def call(name: str, /, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def response(text: str) -> str:
    return f"<tool_response>{text}</tool_response>"


def check(text: str, *references: str, starts: tuple[int, ...] = (), **options: Any) -> Verdict | NoVerdict:
    return verify(SampleFields(text, references, step_starts=starts), TrajectoryOptions.model_validate(options))


def verdict(text: str, *references: str, starts: tuple[int, ...] = (), **options: Any) -> Verdict:
    result = check(text, *references, starts=starts, **options)
    assert isinstance(result, Verdict), result
    return result


GOOD = f"I look. {call('search', q='dogs')}{response('2 dogs')} I add. {call('add', a=1, b=2)}{response('3')}\nThe answer is 3."


@pytest.mark.parametrize(
    ("text", "options", "score", "category"),
    [
        (GOOD, {"tools": TOOLS}, 1.0, ""),
        (call("serch", q="x"), {"tools": TOOLS}, 0.0, "unknown-tool"),
        (call("search", q=3), {"tools": TOOLS}, 0.0, "wrong-arguments"),
        (call("search"), {"tools": TOOLS}, 0.0, "wrong-arguments"),
        (call("anything", q=3), {}, 1.0, ""),
        ("<tool_call>{'name': 'add'}</tool_call>", {}, 0.0, "malformed-call"),
        ("<tool_call>[1]</tool_call>", {}, 0.0, "malformed-call"),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', {}, 0.0, "malformed-call"),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}</tool_call>', {"tools": TOOLS}, 1.0, ""),
        ('<tool_call>{"name": "add"', {}, 0.0, "malformed-call"),
        ('<tool_call>{"name": "rm", "name": "add", "arguments": {}}</tool_call>', {"forbidden": ["rm"]}, 0.0, "malformed-call"),
        ('<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>', {}, 0.0, "malformed-call"),
        (f"<tool_call>{call('add', a=1, b=2)}", {"tools": TOOLS}, 0.5, "malformed-call"),
        (call("rm") + call("add", a=1, b=2), {"forbidden": ["rm"]}, 0.5, "forbidden-tool"),
        (call("add") * 4, {"max_calls": 3}, 0.75, "too-many-calls"),
        (call("add", a=1) + call("add", a=1.0), {"repeats": False}, 1.0, ""),
        (call("add", a=1, b=2) + call("add", b=2, a=1), {"repeats": False}, 0.5, "repeated-call"),
        (call("search") + response('{"error": "no"}'), {"recover": True}, 0.0, "unrecovered-error"),
        (call("search") + response("Error: no") + call("search", q="x") + response("ok"), {"recover": True}, 1.0, ""),
        (call("search") + call("add") + response("Error: no") + response("3"), {"recover": True}, 0.5, "unrecovered-error"),
        (call("search") + response("ERR 5"), {"recover": True, "error_pattern": "^ERR"}, 0.0, "unrecovered-error"),
        (call("add") * 513, {}, 0.0, "too-many-calls"),
        ("<call>{}</call>", {"call_tag": "call"}, 0.0, "malformed-call"),
    ],
)
def test_mistakes_of_single_calls(text: str, options: dict[str, Any], score: float, category: str) -> None:
    result = verdict(text, **options)
    assert (result.score, result.category) == (score, category), result.evidence


@pytest.mark.parametrize(
    ("required", "ordered", "score"),
    [
        ([ADD, SEARCH], False, 1.0),
        ([ADD, SEARCH], True, 0.75),
        ([SEARCH, ADD], True, 1.0),
        ([{"name": "add"}, {"name": "add"}], False, 0.75),
        ([{"name": "add", "arguments": {"a": 1.0}}], False, 1.0),
        ([{"name": "add", "arguments": {"a": True}}], False, 0.5),
        ([{"name": "add", "arguments": {"c": 1}}], False, 0.5),
    ],
)
def test_required_calls(required: list[Any], ordered: bool, score: float) -> None:
    result = verdict(GOOD, required=required, ordered=ordered)
    assert result.score == score, result.evidence
    assert result.category == ("" if score == 1 else "missing-call")


@pytest.mark.parametrize(
    ("names", "measure", "score"),
    [
        ("abc", "prefix", 1.0),
        ("axc", "prefix", 1 / 3),
        ("axc", "subsequence", 2 / 3),
        ("ab", "prefix", 2 / 3),
        ("abcd", "prefix", 0.75),
        ("xabc", "subsequence", 0.75),
        ("cba", "subsequence", 1 / 3),
        ("x", "prefix", 0.0),
        ("", "prefix", 0.0),
    ],
)
def test_partial_credit_for_a_plan(names: str, measure: str, score: float) -> None:
    reference = json.dumps([{"name": name} for name in "abc"])
    result = verdict("".join(call(name) for name in names), reference, plan=measure, weights={"calls": 0})
    assert result.score == pytest.approx(score)
    assert sum(step.score for step in result.steps) == pytest.approx(score * max(3, len(names)))
    assert result.category == ("" if score == 1 else "off-plan")


@pytest.mark.parametrize(
    ("text", "references", "answer", "score"),
    [
        (GOOD, ("3",), {"verifier": "math"}, 1.0),
        (GOOD, ("4",), {"verifier": "math"}, 0.5),
        (GOOD, ("the answer is 3.",), {"verifier": "exact-match", "options": {"ignore_case": True}}, 1.0),
        (GOOD, ("answer",), {"verifier": "contains"}, 1.0),
        (GOOD.partition("\nThe")[0], ("3",), {"verifier": "math"}, 0.5),
        (GOOD, (json.dumps({"plan": [SEARCH, ADD], "answers": ["3"]}),), {"verifier": "math"}, 1.0),
        (GOOD, (json.dumps([SEARCH, ADD]), "3"), {"verifier": "math"}, 1.0),
    ],
)
def test_the_final_answer_is_checked_by_another_verifier(text: str, references: tuple[str, ...], answer: Any, score: float) -> None:
    result = verdict(text, *references, answer=answer, plan="prefix" if references[0][0] in "[{" else "none")
    assert result.score == score, result.evidence
    assert result.category == ("" if score == 1 else "wrong-answer" if "The answer" in text else "no-answer")


def test_weights_and_span() -> None:
    text = f"é {call('search', q=3)} so 3"
    result = verdict(text, "3", tools=TOOLS, answer={"verifier": "math"}, weights={"calls": 1, "answer": 3})
    assert (result.status, result.score, result.extracted_answer) == (Status.PARTIAL, 0.75, "3")
    assert result.span is not None
    assert text[slice(*result.span)] == call("search", q=3)
    only = verdict(text, "3", tools=TOOLS, answer={"verifier": "math"}, weights={"calls": 0})
    assert (only.status, only.category) == (Status.PASS, "")


def test_steps_are_calls_or_those_of_the_sample() -> None:
    text = f"{call('search', q='x')}{call('nothing')}{response('a')}{response('b')}{call('add', a=1, b=2)} 4"
    by_call = verdict(text, "3", tools=TOOLS, answer={"verifier": "math"})
    assert [(step.step, step.score) for step in by_call.steps] == [(0, 1.0), (1, 0.0), (2, 1.0), (3, 0.0)]
    third = text.index("<tool_response>a")
    starts = (0, third, text.index(call("add", a=1, b=2)), len(text) - 2)
    given = verdict(text, "3", tools=TOOLS, answer={"verifier": "math"}, starts=starts)
    assert [(step.step, step.status, step.score) for step in given.steps] == [
        (0, Status.PARTIAL, 0.5),
        (2, Status.PASS, 1.0),
        (3, Status.FAIL, 0.0),
    ]


@pytest.mark.parametrize(
    ("text", "references", "options", "reason"),
    [
        ("no calls at all", (), {}, Reason.ABSTAINED),
        ("", (), {}, Reason.ABSTAINED),
        (GOOD, (), {"plan": "prefix"}, Reason.NOT_APPLICABLE),
        (GOOD, (), {"answer": {"verifier": "math"}}, Reason.NOT_APPLICABLE),
        (GOOD, ("[]",), {"plan": "prefix"}, Reason.INVALID_INPUT),
        (GOOD, ("search then add",), {"plan": "prefix"}, Reason.INVALID_INPUT),
        (GOOD, ('{"plan": [{"tool": "x"}]}',), {"plan": "prefix"}, Reason.INVALID_INPUT),
        (GOOD, (" ",), {"answer": {"verifier": "contains"}}, Reason.INVALID_INPUT),
        (GOOD, (), {"starts": (5, 3)}, Reason.INVALID_INPUT),
        (GOOD, (), {"starts": (0, 10_000)}, Reason.INVALID_INPUT),
    ],
)
def test_no_verdict(text: str, references: tuple[str, ...], options: dict[str, Any], reason: Reason) -> None:
    result = check(text, *references, **options)
    assert isinstance(result, NoVerdict), result
    assert result.reason is reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": {"a": {"type": "thing"}}}, "a: is no JSON Schema"),
        ({"answer": {"verifier": "judge"}}, "'math', 'exact-match' or 'contains'"),
        ({"answer": {"verifier": "math", "options": {"marker": "A"}}}, "options.marker"),
        ({"weights": {"calls": 0}}, "nothing that is checked has a weight"),
        ({"call_tag": "a b"}, "pattern"),
        ({"call_tag": "t", "response_tag": "t"}, "response_tag: must be another tag than call_tag"),
        ({"answer": {"verifier": "math", "options": {"mark": 1}}}, "options.mark: unknown option"),
        ({"error_pattern": "(?=x)"}, "RE2 cannot read it"),
        ({"required": [{"arguments": {}}]}, "Field required"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        TrajectoryOptions.model_validate(options)


def message(*calls: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": one, "type": "function", "function": {"name": name, "arguments": arguments}} for one, name, arguments in calls
        ],
    }


def test_messages_of_openai() -> None:
    messages = [
        message(("1", "search", '{"q": "x"}'), ("2", "add", "{")),
        {"role": "tool", "tool_call_id": "2", "content": "Error"},
        {"role": "tool", "tool_call_id": "1", "content": "found"},
        {"role": "assistant", "content": "It is 3."},
    ]
    read = from_messages(json.dumps(messages))
    assert [(one.name, one.response, bool(one.problem)) for one in read.calls] == [("search", "found", False), ("add", "Error", True)]
    assert read.answer == "It is 3."
    result = verdict(json.dumps(messages), "3", form="openai", answer={"verifier": "math"})
    assert (result.score, result.category) == (0.75, "malformed-call")
    assert [step.score for step in result.steps] == [1.0, 0.0, 1.0]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "3."}, 4]}]
    assert from_messages(json.dumps(parts)).answer == "It is 3."
    assert verdict("I call nothing.", form="openai").category == "malformed-call"
    for broken in ("[1]", '[{"tool_calls": [{}]}]', '[{"tool_calls": {"function": {"name": 3}}}]', "[" * 100_000):
        assert verdict(broken, form="openai").category == "malformed-call"


def test_responses_answer_the_calls_before_them() -> None:
    read = from_tags("<c>{}</c><c>{}</c><r>1</r><r>2</r><r>3</r> x <c>{}</c><r>4", "c", "r")
    assert [one.response for one in read.calls] == ["1", "2", "4"]
    assert read.answer == ""


def test_matching() -> None:
    calls = [Call("a", {"x": 1, "y": 2}, None), Call("a", {"x": 1}, None), Call("b", {}, None)]
    wanted = [WantedCall(name="a"), WantedCall(name="a", arguments={"y": 2})]
    assert in_any_order(wanted, calls) == [1, 0]
    assert in_order(wanted, calls) == [0, None]
    assert in_order([wanted[1], wanted[0]], calls) == [0, 1]
    assert as_prefix([wanted[1], WantedCall(name="b"), wanted[0]], calls) == [0, None, None]
    assert same({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]})
    assert not same([1], [True])
    assert not same({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.parametrize("text", ["<tool_call>" * 50_000, "<tool_response>" * 40_000, call("a") * 10_000, "<tool_call></tool_call>" * 512])
def test_hostile_text_takes_little_time(text: str) -> None:
    began = time.process_time()
    check(text, required=[{"name": "a"}] * 64, recover=True)
    assert time.process_time() - began < 1.5


async def test_steps_travel(start: Any) -> None:
    _, stub = await start()
    sample = pb.Sample(
        id="a", completion=pb.Completion(text=GOOD), references=["3"], step_starts=[0, GOOD.index(" I add"), GOOD.index("The answer")]
    )
    request = verifier_pb.VerifyRequest(verifier="trajectory", samples=[sample])
    options: Any = {"tools": {"search": TOOLS["search"]}, "answer": {"verifier": "math"}, "max_calls": 3}
    request.options.update(options)
    (outcome,) = (await stub.Verify(request, timeout=20)).outcomes
    assert (outcome.verdict.score, outcome.verdict.category, outcome.verdict.extracted_answer) == (0.75, "unknown-tool", "3")
    assert [(step.step, step.status, step.score) for step in outcome.verdict.steps] == [(0, 1, 1.0), (1, 2, 0.0), (2, 1, 1.0)]
    assert outcome.verdict.steps[1].evidence == "unknown-tool: there is no tool 'add'; there are search"
