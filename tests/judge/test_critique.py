"""Critiques: points on the answer's own words, revisions, and whether they are better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from judge.conftest import Serve
from judge.endpoint import Endpoint, judging
from rewardmesh.client import AbsenceReason, sample
from rewardmesh.engine.writing import Written
from rewardmesh.judge.points import read_remarks, remarks_grammar
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

ANSWER = "Ann has 12 apples.\nShe buys 7, so she has 20."
SAMPLE = sample("s", "How many apples?", ANSWER)


def point(quote: str, value: Any = -1, **fields: Any) -> dict[str, Any]:
    return {"quote": quote, "comment": f"on {quote}", "value": value, "label": "error"} | fields


def document(*points: Any, summary: str = "Nearly.") -> str:
    return json.dumps({"summary": summary, "points": list(points)})


def critic(critique: str, revision: str = "", labels: dict[str, float] | None = None) -> Endpoint:
    """Writes a critique, then a revision."""
    return Endpoint(lambda text: labels or {"A": 0.8, "B": 0.2}, lambda text, index: revision if "[Critique]" in text else critique)


async def test_points_become_spans_of_the_completion() -> None:
    endpoint = critic(
        document(point("20", -0.5), point("| She buys 7", 2, label="x" * 40), point("no such words"), point("12 apples", None))
    )
    async with judging(endpoint) as client:
        [result] = await client.critique([SAMPLE], max_points=5)
    critique = result.message.critique
    assert [(ANSWER[span.start : span.end], span.HasField("value"), span.value) for span in critique.spans] == [
        ("20", True, -0.5),
        ("She buys 7", True, 1.0),
        ("12 apples", False, 0.0),
    ]
    assert critique.spans[1].label == "x" * 32
    assert critique.unplaced_points == 1
    assert result.text == critique.text
    assert critique.text.startswith('Nearly.\n"20" (-0.5): on 20\n')
    assert "no such words" in critique.text
    assert result.revision is None
    [(prompt, body)] = endpoint.written_on
    assert "at most 5 points" in prompt
    assert body["temperature"] == 0
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["points"]["maxItems"] == 5


async def test_more_points_than_asked_for_are_left_out() -> None:
    async with judging(critic(document(*[point(word) for word in ("Ann", "12", "apples")]))) as client:
        [result] = await client.critique([SAMPLE], max_points=2)
    assert [span.comment for span in result.message.critique.spans] == ["on Ann", "on 12"]


async def test_a_revision_is_written_with_the_critique_in_sight_and_compared() -> None:
    endpoint = critic(document(point("20")), "Ann has 12 apples.\nShe buys 7, so she has 19.")
    async with judging(endpoint) as client:
        [result] = await client.critique([SAMPLE], want_revision=True, compare_revision=True, temperature=0.5, seed=3)
        [again] = await client.critique([SAMPLE], want_revision=True, compare_revision=True, temperature=0.5, seed=3)
        [alone] = await client.critique([SAMPLE], temperature=0.5, seed=3)
    assert result.revision == "Ann has 12 apples.\nShe buys 7, so she has 19."
    preference = result.message.critique.revision_preference
    assert (preference.p_a_as_given, preference.p_a_swapped) == pytest.approx((0.8, 0.2))
    assert len(endpoint.asked) == 2
    assert "[Answer A]\n^Ann^has^12^apples.\n^She^buys^7,^so^she^has^19." in endpoint.asked[0]
    assert '| "20" (-1): on 20' in endpoint.written_on[1][0]
    assert [body["temperature"] for _, body in endpoint.written_on] == [0.5, 0.5]
    assert again.message.provenance.cached
    assert result.message.provenance.tokens_written == 10
    assert result.message.provenance.model.fingerprint != alone.message.provenance.model.fingerprint


async def test_what_cannot_be_read_is_unparsable_and_the_others_are_criticised() -> None:
    texts = {"one": document(point("one")), "two": "It is bad.", "three": '{"summary": "cut o', "four": '{"points": 3}'}
    endpoint = Endpoint(lambda text: {"A": 1.0}, lambda text, index: next(value for key, value in texts.items() if f"| {key}\n" in text))
    items = [*(sample(key, "q", key) for key in texts), sample("empty", "q", ""), sample("huge", "q", "x " * 200_000)]
    async with judging(endpoint) as client:
        good, *bad, empty, huge = await client.critique(items)
    assert good.absence is None
    assert [each.absence.reason for each in bad if each.absence] == [AbsenceReason.UNPARSABLE] * 3
    assert empty.absence is not None
    assert empty.absence.reason == AbsenceReason.INVALID_INPUT
    assert huge.absence is not None
    assert huge.absence.reason == AbsenceReason.TOO_LONG


async def test_an_empty_revision_is_none() -> None:
    async with judging(critic(document(point("20")), " ")) as client:
        [result] = await client.critique([SAMPLE], want_revision=True)
    assert result.absence is not None
    assert result.absence.detail.startswith("the revision is empty")


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"max_points": -1}, "INVALID_ARGUMENT", "max_points"),
        ({"max_points": 65}, "INVALID_ARGUMENT", "between 1 and 64"),
        ({"temperature": -1.0}, "INVALID_ARGUMENT", "temperature"),
        ({"compare_revision": True}, "INVALID_ARGUMENT", "needs want_revision"),
        ({"template": "compare"}, "NOT_FOUND", "known: .*critique"),
        ({"template": "plain", "want_revision": True}, "FAILED_PRECONDITION", "has no revision text"),
        (
            {"template": "critique", "want_revision": True, "compare_revision": True, "compare_template": "x"},
            "NOT_FOUND",
            "no template named 'x'",
        ),
        ({"samples": [SAMPLE, SAMPLE]}, "INVALID_ARGUMENT", "unique"),
    ],
)
async def test_a_wrong_call_is_a_status(serve: Serve, tmp_path: Path, fields: dict[str, Any], code: str, words: str) -> None:
    (tmp_path / "plain.yaml").write_text("name: plain\nkind: critique\ntext: '{{ completion }}: at most {{ max_points }} points.'")
    async with serve(templates=[str(tmp_path)], default_template="", default_rubric="") as client:
        with pytest.raises(Exception, match=words) as caught:
            await client.judge.Critique(api.CritiqueRequest(**{"samples": [SAMPLE], **fields}))
    assert caught.value.code().name == code  # type: ignore[attr-defined]


async def test_a_served_model_writes_under_the_grammar(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("name: plain\nkind: critique\nmax_tokens: 80\ntext: '{{ completion }}'")
    async with serve(templates=[str(tmp_path)], default_template="", default_rubric="") as client:
        results = await client.critique([sample(str(i), "q", f"{i} apples") for i in range(4)], max_points=1, temperature=1.0, seed=5)
    # Random weights write nonsense, but a document as far as they get.
    for result in results:
        if result.absence is None:
            assert len(result.message.critique.spans) + result.message.critique.unplaced_points <= 1
        else:
            assert result.absence.reason == AbsenceReason.UNPARSABLE
            assert "cut off" in result.absence.detail
        assert 0 < result.message.provenance.tokens_written <= 80


async def test_a_critic_that_writes_lines(tmp_path: Path) -> None:
    (tmp_path / "lines.yaml").write_text("name: lines\nextends: critique\nformat: lines\ntext: 'Write lines on {{ completion }}.'")
    endpoint = critic('Nearly right.\n- "20" -> -1: should be 19\n- “12 apples” -> 0.5: well read\nThat is all.')
    async with judging(endpoint, templates=[str(tmp_path)]) as client:
        [result] = await client.critique([SAMPLE])
    assert [(ANSWER[s.start : s.end], s.value, s.comment) for s in result.message.critique.spans] == [
        ("20", -1.0, "should be 19"),
        ("12 apples", 0.5, "well read"),
    ]
    assert "response_format" not in endpoint.written_on[0][1]


@pytest.mark.parametrize("text", ["", "[]", '{"points": [1]}', '{"points": "none"}', "no JSON"])
def test_texts_that_are_no_critique(text: str) -> None:
    read = read_remarks(Written(text, "stop", 1, 1), 3, lines=False)
    assert isinstance(read, pb.Absence)


def test_fields_that_are_wrong_or_missing_are_left_out() -> None:
    text = json.dumps({"points": [{"quote": 3, "value": True}, {"quote": "a", "value": "1"}, {"value": -7, "label": None}]})
    read = read_remarks(Written(text, "stop", 1, 1), 3, lines=False)
    assert not isinstance(read, pb.Absence)
    assert [(p.quote, p.value, p.label) for p in read.points] == [("", None, ""), ("a", None, ""), ("", -1.0, "")]
    assert json.loads(remarks_grammar(3).schema)["properties"]["points"]["maxItems"] == 3
