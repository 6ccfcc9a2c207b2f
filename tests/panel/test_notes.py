"""Rules in which members write for a judge that reads: debate, hindsight, and the critics whose points are merged."""

from __future__ import annotations

from typing import Any

import pytest

from panel.conftest import Panels, Toy, Toys, answer_of
from rewardmesh.client import AbsenceReason, AsyncClient, pair, rank_group, sample
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

BUSY = absence(pb.ABSENCE_REASON_OVERLOADED, "busy", retryable=True)


@pytest.fixture
async def four(toys: Toys) -> dict[str, Toy]:
    return {name: await toys(name) for name in ("left", "right", "judge", "spare")}


def speaking(toy: Toy) -> None:
    """Let a toy say whose answer it speaks of and what it was told."""
    toy.criticise = lambda item: api.Critique(
        text=f"{toy.name} on {item.completion.text}" + "".join(f" <{note}>" for note in item.context.notes)
    )


async def debate(panels: Panels, toys: dict[str, Toy], **rule: Any) -> AsyncClient:
    members = {name: toy.address for name, toy in toys.items()}
    return await panels(
        members, compare={"rule": "debate", "advocates": ["left", "right"], "judge": "judge", **rule}, rank={"rule": "jury"}
    )


async def test_a_debate_reads_the_same_in_both_orders(four: dict[str, Toy], panels: Panels) -> None:
    """The first advocate defends what is shown first; in the other order sides are changed, and the notes with them."""
    for name in ("left", "right"):
        speaking(four[name])
    judge = four["judge"]
    judge.prefer = lambda item: 0.7 if item.a.text == "one" else 0.4
    client = await debate(panels, four)
    (found,) = await client.compare([pair("p", "?", "one", "two")])
    (request,) = judge.requests
    assert request.orders == api.COMPARE_ORDERS_AS_GIVEN
    assert [(each.a.text, each.b.text, list(each.context.notes)) for each in request.pairs] == [
        ("one", "two", ["Round 1, against the second answer: left on two", "Round 1, against the first answer: right on one"]),
        ("two", "one", ["Round 1, against the second answer: left on one", "Round 1, against the first answer: right on two"]),
    ]
    verdict = found.message.preference
    assert [verdict.p_a_as_given, verdict.p_a_swapped] == pytest.approx([0.7, 0.6])
    assert verdict.p_a == pytest.approx(0.65)
    assert verdict.agreement == pytest.approx(0.9)
    assert found.message.provenance.tokens_read == 6 * 10
    (once,) = await client.compare([pair("p", "?", "one", "two")], both_orders=False)
    assert once.value == pytest.approx(0.7)
    assert not once.message.preference.HasField("p_a_swapped")


async def test_later_rounds_answer_what_was_said(four: dict[str, Toy], panels: Panels) -> None:
    for name in ("left", "right"):
        speaking(four[name])
    four["judge"].prefer = lambda item: 0.5
    client = await debate(panels, four, rounds=2, template="argue")
    await client.compare([pair("p", "?", "one", "two")], both_orders=False)
    assert list(four["judge"].requests[0].pairs[0].context.notes)[2:] == [
        "Round 2, against the second answer: left on two <The other side says of the answer you defend: right on one>",
        "Round 2, against the first answer: right on one <The other side says of the answer you defend: left on two>",
    ]
    assert {request.template for request in four["left"].requests} == {"argue"}


async def test_a_debate_without_one_side_is_none(four: dict[str, Toy], panels: Panels) -> None:
    four["right"].criticise = lambda item: BUSY if item.completion.text == "one" else api.Critique(text="so")
    four["judge"].prefer = lambda item: 0.9
    client = await debate(panels, four)
    lost, kept = await client.compare([pair("p", "?", "one", "two"), pair("q", "?", "three", "four")])
    assert lost.absence is not None
    assert (lost.absence.reason, lost.absence.retryable) == (AbsenceReason.ABSTAINED, True)
    assert "right against the first answer: OVERLOADED: busy" in lost.absence.detail
    assert kept.value == pytest.approx(0.5)


async def test_a_debate_ranks_by_pairs(four: dict[str, Toy], panels: Panels) -> None:
    four["judge"].prefer = lambda item: 0.5 + (float(item.a.text) - float(item.b.text)) / 10
    members = {name: toy.address for name, toy in four.items()}
    client = await panels(members, default={"rule": "debate", "advocates": ["left", "right"], "judge": "judge"})
    (found,) = await client.rank([rank_group("g", "?", ["1", "3", "2"])])
    assert found.order == (1, 2, 0)
    assert found.scores == pytest.approx([0.35, 0.65, 0.5])
    assert (found.message.ranking.kendall_w, found.message.ranking.verdicts) == (1, 6)


async def test_hindsight_shows_the_judge_what_came_of_it(four: dict[str, Toy], panels: Panels) -> None:
    for name in ("left", "right"):
        speaking(four[name])
    judge = four["judge"]
    judge.prefer = lambda item: 0.8 if item.context.notes[0].endswith("on one") else 0.2
    members = {name: toy.address for name, toy in four.items()}
    rule = {"rule": "hindsight", "writers": ["left", "right"], "judge": "judge", "template": "outcome"}
    client = await panels(members, default=rule)
    (found,) = await client.compare([pair("p", "?", "one", "two")])
    first, second = judge.requests[0].pairs
    assert list(first.context.notes) == [
        f"What came of the {place} answer: {who} on {what}"
        for who in ("left", "right")
        for place, what in (("first", "one"), ("second", "two"))
    ]
    assert list(second.context.notes)[:2] == ["What came of the first answer: left on two", "What came of the second answer: left on one"]
    assert found.value == pytest.approx(0.8)
    (graded,) = await client.grade([answer_of("s", judge=0.25)])
    assert graded.value == 0.25
    assert list(judge.requests[-1].samples[0].context.notes) == [
        f"What came of the answer: {who} on judge=0.25" for who in ("left", "right")
    ]
    assert {request.template for request in four["left"].requests} == {"outcome"}


async def test_writers_who_know_one_answer_only_are_not_heard(four: dict[str, Toy], panels: Panels) -> None:
    speaking(four["left"])
    four["right"].criticise = lambda item: BUSY if item.completion.text == "one" else api.Critique(text="so")
    four["judge"].prefer = lambda item: 0.9
    members = {name: toy.address for name, toy in four.items()}
    rule = {"rule": "hindsight", "writers": ["left", "right"], "judge": "judge"}
    lenient, strict = await panels(members, default={**rule, "quorum": 1}), await panels(members, name="strict", default=rule)
    await lenient.compare([pair("p", "?", "one", "two")])
    assert all(len(item.context.notes) == 2 for item in four["judge"].requests[0].pairs)
    (lost,) = await strict.compare([pair("p", "?", "one", "two")])
    assert lost.absence is not None
    assert "1 of 2 members gave a verdict, 2 are needed (right: OVERLOADED: busy)" in lost.absence.detail
    four["judge"].criticise = lambda item: BUSY
    (ungraded,) = await strict.grade([answer_of("s", judge="?")])
    assert ungraded.absence is not None
    assert "the judge gave no grade (judge: OVERLOADED: busy)" in ungraded.absence.detail


def critique(text: str, *spans: tuple[int, int], **fields: Any) -> api.Critique:
    return api.Critique(text=text, spans=[pb.Span(start=start, end=end, comment=f"{text} {start}") for start, end in spans], **fields)


async def ask_critics(client: AsyncClient, **fields: Any) -> api.CritiqueOutcome:
    request = api.CritiqueRequest(samples=[sample("s", "How many?", "Ann has 19 apples.")], **fields)
    (outcome,) = (await client.judge.Critique(request)).outcomes
    return outcome


async def test_critics_are_merged(four: dict[str, Toy], panels: Panels) -> None:
    said = {"left": critique("a", (0, 4), (8, 10)), "right": critique("b", (8, 12)), "spare": critique("c", (13, 17))}
    for name, found in said.items():
        four[name].criticise = lambda item, found=found: found  # type: ignore[misc]
    members = {name: four[name].address for name in said}
    outcome = await ask_critics(await panels(members, critique={"rule": "critics", "min_votes": 2}), max_points=5, template="own")
    assert [(each.start, each.end, each.comment) for each in outcome.critique.spans] == [(8, 10, "left: a 8\nright: b 8")]
    assert outcome.critique.text == "left: a\n\nright: b\n\nspare: c"
    assert (four["left"].requests[0].max_points, four["left"].requests[0].template) == (5, "own")
    four["left"].criticise = four["right"].criticise = lambda item: BUSY
    lost = await ask_critics(await panels(members, name="again", critique={"rule": "critics"}))
    assert lost.absence.reason == pb.ABSENCE_REASON_ABSTAINED
    assert lost.absence.retryable


@pytest.mark.parametrize("keep", ["merge", "best"])
async def test_a_critic_of_critics(four: dict[str, Toy], panels: Panels, keep: str) -> None:
    """The judge grades each critique as an answer; the better weighs more, or is kept whole."""
    better = pb.Completion(text="Ann has 20 apples.")
    four["left"].criticise = lambda item: critique("judge=0.9", (8, 10), revised_completion=better, unplaced_points=1)
    four["right"].criticise = lambda item: critique("judge=0.2", (0, 3), revised_completion=pb.Completion(text="worse"))
    members = {name: four[name].address for name in ("left", "right", "judge")}
    rule = {"rule": "critics", "judge": "judge", "rubric": "of-critiques", "keep": keep, "min_votes": 0.5}
    outcome = await ask_critics(await panels(members, critique=rule), want_revision=True)
    graded = four["judge"].requests[0]
    assert graded.rubric == "of-critiques"
    assert [message.content for message in graded.samples[0].prompt] == ["How many?", "Ann has 19 apples."]
    assert graded.samples[0].completion.text == "judge=0.9"
    assert [(each.start, each.end) for each in outcome.critique.spans] == [(8, 10)]
    assert outcome.critique.revised_completion == better
    assert outcome.critique.text == ("judge=0.9" if keep == "best" else "left: judge=0.9\n\nright: judge=0.2")
    assert outcome.provenance.tokens_read == 40
    four["left"].criticise = four["right"].criticise = lambda item: critique("judge=?")
    lost = await ask_critics(await panels(members, name="again", critique=rule))
    assert "no critique was graded (judge of left: OVERLOADED" in lost.absence.detail


async def test_the_revision_that_wins_most_clearly_is_kept(four: dict[str, Toy], panels: Panels) -> None:
    for name, p in (("left", 0.6), ("right", 0.8), ("spare", 0.7)):
        found = critique(name, revised_completion=pb.Completion(text=name), revision_preference=api.Preference(p_a=p, p_a_as_given=p))
        four[name].criticise = lambda item, found=found: found  # type: ignore[misc]
    members = {name: four[name].address for name in ("left", "right", "spare")}
    outcome = await ask_critics(await panels(members, critique={"rule": "critics"}), want_revision=True, compare_revision=True)
    assert outcome.critique.revised_completion.text == "right"
    assert outcome.critique.revision_preference.p_a == pytest.approx(0.8)
