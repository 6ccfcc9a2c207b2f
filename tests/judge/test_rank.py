"""Rank on a real server, and the statistics it rests on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from judge.conftest import Serve
from judge.endpoint import Endpoint, judging
from rewardmesh.client import answer, message, pair
from rewardmesh.serving.rankings import cycle_rate, kendall_w, mean_wins
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
        (api.RankRequest(repeats=2), "repeats: .* set votes"),
        (api.RankRequest(pairs_per_answer=3), "pairs_per_answer: is for method SPARSE"),
        (api.RankRequest(method=api.RANK_METHOD_SPARSE, pairs_per_answer=1), "pairs_per_answer: must be at least 2"),
        (api.RankRequest(method=api.RANK_METHOD_LISTWISE, template="short"), "no template named 'short'; known: rank-list"),
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
    assert kendall_w([[1, 2]]) == kendall_w([]) == 1


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


TEXTS = ["19", "There are 20.", "I do not know", "7", "Ann has 19 apples."]


def matrix_of(ranking: api.Ranking) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.frombuffer(ranking.pair_matrix.probabilities.data, "<f4").reshape(ranking.pair_matrix.size, -1)


async def test_a_sparse_tournament_asks_fewer_pairs(serve: Serve) -> None:
    async with serve() as client:
        [every] = await client.rank([group("g", *TEXTS)])
        [sparse] = await client.rank([group("g", *TEXTS)], method="SPARSE", pairs_per_answer=2, aggregation="BRADLEY_TERRY", seed=4)
        [thrice] = await client.rank([group("g", *TEXTS)], method="SPARSE", pairs_per_answer=2, repeats=3, seed=4)
        [default] = await client.rank([group("g", *TEXTS)], method="SPARSE")
    whole, part = matrix_of(every.message.ranking), matrix_of(sparse.message.ranking)
    assert (every.message.ranking.verdicts, sparse.message.ranking.verdicts, thrice.message.ranking.verdicts) == (20, 10, 30)
    assert (~np.isnan(part)).sum() == 5 + 2 * 5
    np.testing.assert_allclose(part[~np.isnan(part)], whole[~np.isnan(part)], atol=1e-4)
    assert sum(sparse.scores) == pytest.approx(0, abs=1e-5)
    assert 0 <= thrice.message.ranking.kendall_w <= 1
    assert default.message.ranking.verdicts == 20, "as many pairs an answer as there are others"


async def test_scores_are_on_the_scale_that_was_asked_for(serve: Serve) -> None:
    async with serve() as client:
        found = {
            kind: (await client.rank([group("g", *TEXTS)], aggregation=kind))[0] for kind in ("MEAN_WINS", "BORDA", "BRADLEY_TERRY", "ELO")
        }
    assert np.mean(found["MEAN_WINS"].scores) == pytest.approx(0.5, abs=1e-5)
    assert np.mean(found["BORDA"].scores) == pytest.approx(0.5, abs=1e-5)
    assert np.mean(found["BRADLEY_TERRY"].scores) == pytest.approx(0, abs=1e-5)
    assert np.mean(found["ELO"].scores) == pytest.approx(1000, abs=0.01)
    assert found["ELO"].order == found["BRADLEY_TERRY"].order


async def test_repeated_votes_differ_and_a_seed_fixes_them(serve: Serve) -> None:
    async with serve() as client:
        [first] = await client.rank([group("g", *TEXTS)], votes=3, repeats=4, seed=1)
        [again] = await client.rank([group("g", *TEXTS)], votes=3, repeats=4, seed=1)
        [other] = await client.rank([group("g", *TEXTS)], votes=3, repeats=4, seed=2)
    assert first.message.ranking.verdicts == 10 * 2 * 3 * 4
    assert first.scores == again.scores
    assert first.scores != other.scores
    assert first.message.ranking.kendall_w < 1, "the repeats have votes of their own"


LIST = """
name: short-list
kind: rank
labels: [A, B, C, D, E]
text: "{{ prompt }}{% for answer in answers %} {{ answer.label }}: {{ answer.text }}{% endfor %} Which is best?"
"""


async def test_a_list_is_read_once_for_each_order(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text(LIST)
    async with serve(templates=[str(tmp_path)], default_template="", default_rubric="") as client:
        [once] = await client.rank([group("g", *TEXTS[:3])], method="LISTWISE")
        [often] = await client.rank([group("g", *TEXTS[:3])], method="LISTWISE", repeats=3, aggregation="BRADLEY_TERRY")
        [turned] = await client.rank([group("g", TEXTS[1], TEXTS[2], TEXTS[0])], method="LISTWISE", repeats=3)
        [voted] = await client.rank([group("g", *TEXTS[:3])], method="LISTWISE", votes=50, seed=1)
        many = [str(i) for i in range(6)]
        [too_many] = await client.rank([group("g", *many)], method="LISTWISE")
    assert (once.message.ranking.verdicts, often.message.ranking.verdicts, voted.message.ranking.verdicts) == (1, 3, 50)
    matrix = matrix_of(once.message.ranking)
    np.testing.assert_allclose(matrix + matrix.T, 1, atol=1e-6)
    # Luce's choice axiom: odds multiply along a path.
    odds = matrix / (1 - matrix)
    assert odds[0, 1] * odds[1, 2] == pytest.approx(odds[0, 2], rel=1e-3)
    assert once.message.ranking.kendall_w == 1
    assert often.message.ranking.kendall_w < 1
    assert matrix_of(voted.message.ranking)[0, 1] == pytest.approx(matrix[0, 1], abs=0.25)
    # Over all rotations each answer stands at each place: another order as given changes little but the neighbours.
    assert turned.order is not None
    assert too_many.absence is not None
    assert "labels for 5, there are 6; method SPARSE" in too_many.absence.detail


async def test_written_lists_are_orders(tmp_path: Path) -> None:
    (tmp_path / "written.yaml").write_text(LIST.replace("short-list", "written") + "verdict: written")
    endpoint = Endpoint(None, lambda text, index: ['{"order": ["C", "A", "B"]}', '{"order": ["C", "B", "A"]}', "C, perhaps"][index])
    async with judging(endpoint, templates=[str(tmp_path)]) as client:
        [result] = await client.rank([group("g", "x", "y", "z")], method="LISTWISE", votes=3)
    assert result.order is not None
    assert result.order[0] == 2
    np.testing.assert_allclose(matrix_of(result.message.ranking), [[0.5, 0.5, 0], [0.5, 0.5, 0], [1, 1, 0.5]])
    assert result.message.ranking.verdicts == 2


async def test_a_pair_without_a_verdict_is_left_out() -> None:
    def labels(text: str) -> dict[str, float]:
        # Nothing is said of 0 against 1 in either order.
        return (
            {"no": 1.0}
            if "^one\n" in text and "^two\n" in text
            else {"A": 0.75, "B": 0.25}
            if "[Answer A]\n^one" in text
            else {"A": 0.5, "B": 0.5}
        )

    async with judging(Endpoint(labels)) as client:
        [result] = await client.rank([group("g", "one", "two", "three")])
    matrix = matrix_of(result.message.ranking)
    assert np.isnan(matrix[0, 1])
    assert matrix[0, 2] == pytest.approx((0.75 + 0.5) / 2)
    assert result.message.ranking.verdicts == 4
