"""Rank on a real server, and the statistics it rests on."""

from __future__ import annotations

import numpy as np
import pytest

from judge.conftest import Serve
from rewardmesh.client import answer, message, pair
from rewardmesh.judge.ranking import cycle_rate, kendall_w, mean_wins
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

PROMPT = [message("user", "How many apples?")]


def group(id: str, *texts: str) -> api.RankGroup:
    return api.RankGroup(id=id, prompt=PROMPT, completions=map(answer, texts))


async def test_ranking_is_built_on_compare(serve: Serve) -> None:
    texts = ["19", "There are 20.", "I do not know"]
    async with serve() as client:
        reply = await client.judge.Rank(api.RankRequest(groups=[group("g", *texts)]))
        pairs = [pair(f"{i}{j}", PROMPT, texts[i], texts[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        verdicts = {result.pair_id: result.value for result in await client.compare(pairs)}
    ranking = reply.outcomes[0].ranking
    matrix = np.frombuffer(ranking.pair_matrix.probabilities.data, "<f4").reshape(3, 3)
    assert ranking.pair_matrix.size == 3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert matrix[i, j] == pytest.approx(verdicts[f"{i}{j}"], abs=1e-4)
    np.testing.assert_allclose(matrix + matrix.T, 1, atol=1e-6)
    assert ranking.scores == pytest.approx([(matrix[i].sum() - 0.5) / 2 for i in range(3)], abs=1e-6)
    assert list(ranking.order) == sorted(range(3), key=lambda i: -ranking.scores[i])
    assert 0 <= ranking.kendall_w <= 1
    assert ranking.cycle_rate in (0, 1)
    assert reply.outcomes[0].provenance.tokens_read > reply.outcomes[0].provenance.tokens_computed


async def test_bad_groups_are_absences(serve: Serve) -> None:
    async with serve() as client:
        reply = await client.judge.Rank(
            api.RankRequest(groups=[group("one", "19"), group("empty", "19", "20", ""), group("good", "1", "2")])
        )
    one, empty, good = reply.outcomes
    assert one.absence.reason == empty.absence.reason == pb.ABSENCE_REASON_INVALID_INPUT
    assert "at least 2" in one.absence.detail
    assert good.HasField("ranking")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (api.RankRequest(method=api.RANK_METHOD_LISTWISE), "LISTWISE is not implemented"),
        (api.RankRequest(method=api.RANK_METHOD_SPARSE), "SPARSE is not implemented"),
        (api.RankRequest(repeats=2), "repeats above 1"),
        (api.RankRequest(repeats=-1), "repeats"),
        (api.RankRequest(template="x"), "no template named 'x'"),
        (api.RankRequest(groups=[group("g"), group("g")]), "unique"),
    ],
)
async def test_a_wrong_call_is_a_status(serve: Serve, request_: api.RankRequest, words: str) -> None:
    async with serve() as client:
        with pytest.raises(Exception, match=words):
            await client.judge.Rank(request_)


def test_kendall_w() -> None:
    assert kendall_w([[3, 2, 1], [0.9, 0.5, 0.1]]) == pytest.approx(1)
    assert kendall_w([[1, 2, 3], [3, 2, 1]]) == pytest.approx(0)
    # Two rankings that differ in one neighbouring pair of four: W = (1 + rho) / 2 with Spearman's rho 0.8.
    assert kendall_w([[1, 2, 3, 4], [2, 1, 3, 4]]) == pytest.approx(0.9)
    # The same ties in both are full agreement.
    assert kendall_w([[1, 1, 2], [5, 5, 7]]) == pytest.approx(1)
    assert kendall_w([[1, 1], [1, 1]]) == 1


def test_cycle_rate_and_mean_wins() -> None:
    nan = float("nan")
    cycle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    assert cycle_rate(cycle) == 1
    assert cycle_rate(np.array([[0.5, 0.9, 0.9], [0.1, 0.5, 0.9], [0.1, 0.1, 0.5]])) == 0
    assert cycle_rate(np.full((3, 3), 0.5)) == 0
    assert cycle_rate(np.full((2, 2), 0.5)) == 0
    partial = np.array([[0.5, 0.8, nan], [0.2, 0.5, 0.6], [nan, 0.4, 0.5]])
    assert cycle_rate(partial) == 0
    assert mean_wins(partial) == pytest.approx([0.8, 0.4, 0.4])
