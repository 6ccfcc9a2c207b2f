"""Votes: drawn from label probabilities, or written; counted only when they can be read."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.conftest import Serve
from judge.endpoint import Endpoint, judging
from rewardmesh.client import AbsenceReason, CallFailed, pair, sample
from rewardmesh.judge.reading import read_order, read_verdict
from rewardmesh.judge.votes import Ballot, ballot
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

PAIR = pair("p", "How many apples?", "19", "20")


def draws(chances: list[float], temperature: float, votes: int = 2000) -> Counter[int]:
    chosen = Ballot(votes, temperature, 3, fresh=False)
    return Counter(chosen.draw(chances, [1, 2], "", vote) for vote in range(votes))


def test_draws_follow_the_probabilities_and_the_temperature() -> None:
    assert draws([0.7, 0.3], 1.0)[0] / 2000 == pytest.approx(0.7, abs=0.03)
    # Half the temperature squares the odds.
    assert draws([0.7, 0.3], 0.5)[0] / 2000 == pytest.approx(0.49 / 0.58, abs=0.03)
    assert set(draws([0.7, 0.3, 0.0], 0.01)) == {0}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5).filter(lambda row: sum(row) > 0.01), st.integers(1, 2**40))
def test_a_draw_is_a_label_that_has_a_chance_and_a_seed_fixes_it(chances: list[float], seed: int) -> None:
    chosen = Ballot(1, 1.0, seed, fresh=False)
    label = chosen.draw(chances, [5], "", 0)
    assert chances[label] > 0
    assert label == chosen.draw(chances, [5], "", 0)


def test_an_unseeded_ballot_is_fresh() -> None:
    first, second = ballot(1, 0.0, 0), ballot(1, 0.0, 0)
    assert first.fresh
    assert first.seed != second.seed
    assert ballot(1, 0.0, 5) == Ballot(1, 0.0, 5, fresh=False)


async def test_votes_of_a_served_model_agree_with_its_probabilities(serve: Serve) -> None:
    async with serve() as client:
        [exact] = await client.compare([PAIR])
        [voted] = await client.compare([PAIR], votes=400, seed=1)
        [again] = await client.compare([PAIR], votes=400, seed=1)
        [sure] = await client.compare([PAIR], votes=20, temperature=0.001, seed=1)
    verdict = voted.message.preference
    assert (verdict.votes, verdict.unparsable_votes) == (800, 0)
    assert voted.value == pytest.approx(exact.value, abs=0.06)
    assert voted.value != exact.value, "votes are counts"
    assert 0.5 <= verdict.vote_agreement < 1
    assert again.value == voted.value
    assert sure.message.preference.p_a_as_given == round(exact.message.preference.p_a_as_given)


async def test_unseeded_votes_are_drawn_anew_and_equal_pairs_apart(serve: Serve) -> None:
    async with serve() as client:
        values = [(await client.compare([PAIR], votes=50))[0].value for _ in range(6)]
        same = [pair(f"p{i}", "How many apples?", "19", "20") for i in range(6)]
        together = [result.value for result in await client.compare(same, votes=50)]
        seeded = [result.value for result in await client.compare(same, votes=50, seed=9)]
    assert len(set(values)) > 1
    assert len(set(together)) > 1
    assert len(set(seeded)) == 1


async def test_ties_are_votes_too(serve: Serve) -> None:
    async with serve() as client:
        [result] = await client.compare([PAIR], template="with-tie", votes=100, seed=2)
    verdict = result.message.preference
    assert verdict.p_tie > 0
    assert verdict.p_a == pytest.approx((verdict.p_a_as_given + verdict.p_a_swapped) / 2, abs=1e-6)


def says(*texts: str) -> Endpoint:
    return Endpoint(None, lambda text, index: texts[index % len(texts)])


async def test_written_verdicts_with_strength() -> None:
    endpoint = says('{"verdict": "A", "strength": 0.5}', 'Well. {"verdict": "B", "strength": 1.5}', "I cannot say.")
    async with judging(endpoint) as client:
        request = api.CompareRequest(pairs=[PAIR], template="compare-written", votes=3, orders=api.COMPARE_ORDERS_AS_GIVEN)
        [outcome] = (await client.judge.Compare(request)).outcomes
    preference = outcome.preference
    assert (preference.p_a, preference.votes, preference.unparsable_votes) == (0.5, 2, 1)
    assert preference.strength == pytest.approx(0.75)
    assert preference.vote_agreement == 0.5
    [(_, body)] = endpoint.written_on
    schema = json.dumps(body["response_format"])
    assert '"verdict"' in schema, "the endpoint is told the document"


async def test_an_item_without_a_readable_vote_is_unparsable() -> None:
    async with judging(says("Both have merit.")) as client:
        [result] = await client.compare([PAIR], template="compare-written", votes=3)
    assert result.absence is not None
    assert result.absence.reason == AbsenceReason.UNPARSABLE
    assert "Both have merit." in result.absence.detail


async def test_an_endpoint_without_log_probabilities_writes_its_labels() -> None:
    endpoint = says("A", "**B**", "A.")
    async with judging(endpoint) as client:
        [voted] = await client.compare([PAIR], template="compare", votes=3, both_orders=False)
        [greedy] = await client.compare([PAIR], template="compare", both_orders=False)
    assert voted.value == pytest.approx(2 / 3)
    assert (greedy.value, greedy.message.preference.votes) == (1, 1)


async def test_a_judge_that_cannot_write_refuses_hops_but_not_labels(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewardmesh.engine.loading import LoadedModel

    able = LoadedModel.abilities.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(LoadedModel, "abilities", property(lambda model: able(model) - {"write"}))
    async with serve() as client:
        [result] = await client.compare([PAIR], votes=3)
        assert result.value is not None
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*compare-reasoned' has hops; .*cannot write"):
            await client.compare([PAIR], template="compare-reasoned")
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*wants a verdict in words"):
            await client.critique([sample("s", "q", "19")])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('{"verdict": "A"}', 0),
        ('{"verdict": "A"} but then {"verdict": " B "}', 1),
        ('{"verdict": 2}', None),
        ('{"verdict": null} B', None),
        ('```json\n{"reasons": {"verdict": "A"}, "verdict": "B"}\n```', 1),
        ("B", 1),
        (" (A) ", 0),
        ("Verdict: A ... no, my verdict: B.", 1),
        ('"verdict": "A", "strength": 0.', 0),
        ("verdict: Apples", None),
        ("A is good. B is better.", None),
        ("{" * 2000, None),
        ("", None),
    ],
)
def test_reading_verdicts(text: str, label: int | None) -> None:
    read = read_verdict(text, ("A", "B"), ())
    if label is None:
        assert isinstance(read, pb.Absence)
        assert read.reason == pb.ABSENCE_REASON_UNPARSABLE
    else:
        assert not isinstance(read, pb.Absence)
        assert read.label == label


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ('{"order": ["B", "A", "C"]}', "BAC"),
        ("C > A > B", "CAB"),
        ('{"order": ["A", "A", "B"]}', None),
        ('{"order": "ABC"}', None),
        ("A", None),
    ],
)
def test_reading_orders(text: str, order: str | None) -> None:
    read = read_order(text, ("A", "B", "C"), ())
    if order is None:
        assert isinstance(read, pb.Absence)
    else:
        assert not isinstance(read, pb.Absence)
        assert "".join(sorted("ABC", key=lambda letter: -read.chances["ABC".index(letter)])) == order


@given(st.text(max_size=200))
def test_any_text_is_a_verdict_or_unparsable(text: str) -> None:
    read = read_verdict(text, ("A", "B"), ())
    assert isinstance(read, pb.Absence) or read.label in (0, 1)
