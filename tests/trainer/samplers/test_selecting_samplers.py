"""Which rollouts are judged, and which of the judged ones are learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.samplers import StepContext, load_sampler
from rewardmesh.trainer.samplers.rejection import accept, acceptance, pass_once
from rewardmesh.trainer.samplers.uncertain import closest, most_spread
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, Scores

MakeContext = Callable[..., StepContext]
MakeGroup = Callable[..., Group]


def indices(group: Group | None) -> list[int] | None:
    """Which of the original rollouts are in a kept group."""
    return None if group is None else [int(rollout.id.rpartition("/")[2]) for rollout in group.rollouts]


class Knows:
    """Answers with what a test gives."""

    def __init__(self, references: Mapping[str, FloatArray | None] | None = None, scores: Sequence[Scores] = ()) -> None:
        self._references = references or {}
        self._scores = scores
        self.programs: list[str] = []

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        return [self._references[rollout.id] for rollout in rollouts]

    async def scores(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str) -> Sequence[Scores]:
        self.programs.append(program)
        return self._scores

    async def probe(self, prompts: Sequence[Prompt], n: int) -> Mapping[str, Sequence[Scores]]:
        raise AssertionError


async def test_uncertain_by_the_policys_own_preference(
    make_context: MakeContext, prompts: list[Prompt], make_rollout: Callable[..., Rollout]
) -> None:
    rollouts = [make_rollout(f"g/{i}", "g", [-1.0, -1.0]) for i in range(4)]
    ratios = [0.0, 3.0, 0.9, 2.5]
    references: dict[str, FloatArray | None] = {
        rollout.id: np.array([-1.0, -1.0 - ratio], np.float32) for rollout, ratio in zip(rollouts, ratios, strict=True)
    }
    uncertain = load_sampler("uncertain")
    assert uncertain.needs_logprob
    assert await uncertain.select(make_context(), prompts[0], rollouts, Knows(references)) == [1, 3]
    references["g/0"] = None
    assert 0 in await uncertain.select(make_context(), prompts[0], rollouts, Knows(references))


@pytest.mark.parametrize(("by", "expected"), [("reward", [0, 1]), ("spread", [1, 2])])
async def test_uncertain_by_a_cheap_program(
    make_context: MakeContext, prompts: list[Prompt], make_rollout: Callable[..., Rollout], by: str, expected: list[int]
) -> None:
    rollouts = [make_rollout(f"g/{i}", "g", [-1.0]) for i in range(3)]
    asks = Knows(scores=[Scores(reward, spreads={"helpful": spread}) for reward, spread in ((0.5, 0.1), (0.6, 0.3), (0.9, 0.2))])
    uncertain = load_sampler("uncertain", {"by": by, "program": "cheap"})
    assert not uncertain.needs_logprob
    assert await uncertain.select(make_context(), prompts[0], rollouts, asks) == expected
    assert asks.programs == ["cheap"]


async def test_a_small_group_is_judged_whole(
    make_context: MakeContext, prompts: list[Prompt], make_rollout: Callable[..., Rollout], silent_mesh: Any
) -> None:
    rollouts = [make_rollout(f"g/{i}", "g", [-1.0]) for i in range(2)]
    assert await load_sampler("uncertain").select(make_context(), prompts[0], rollouts, silent_mesh) == [0, 1]


@pytest.mark.parametrize("options", [{"by": "reward"}, {"by": "log_ratio", "program": "cheap"}])
def test_uncertain_wants_a_program_where_one_answers(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="program: is for by: reward and by: spread"):
        load_sampler("uncertain", options)


@given(values=st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), min_size=1, max_size=7), data=st.data())
def test_closest_is_the_narrowest_choice(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    array = np.array(values)
    chosen = closest(array, count)
    assert len(set(chosen)) == count
    unknown = int(np.isnan(array).sum())
    assert int(np.isnan(array[chosen]).sum()) == min(unknown, count)
    known = [array[i] for i in chosen if not np.isnan(array[i])]
    if known:
        best = min(max(some) - min(some) for some in combinations(array[~np.isnan(array)].tolist(), len(known)))
        assert max(known) - min(known) == pytest.approx(best)


def test_most_spread_takes_the_unknown_first() -> None:
    assert most_spread(np.array([0.1, np.nan, 0.4, 0.4]), 2) == [1, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 3], [1, 2], None]),
        ({"keep": 3}, [[0, 2, 3], [1, 2], None]),
        ({"min_margin": 0.5}, [[0, 3], None, None]),
        ({"share": 0.3}, [[0, 3], None, None]),
    ],
)
def test_large_margin_keeps_the_extremes(
    make_context: MakeContext, make_group: MakeGroup, options: dict[str, Any], expected: list[list[int] | None]
) -> None:
    groups = [
        make_group("a", [0.9, 0.4, 0.5, 0.1]),
        make_group("b", [None, 0.5, 0.6, None]),
        make_group("c", [None, 0.5, None, None]),
    ]
    assert [indices(group) for group in load_sampler("large_margin", options).keep(make_context(), groups)] == expected


def test_large_margin_by_the_judge(make_context: MakeContext, make_group: MakeGroup) -> None:
    wins = np.array([[np.nan, 0.2, np.nan], [np.nan, np.nan, 0.9], [0.6, np.nan, np.nan]])
    group = make_group("g", [0.9, 0.4, 0.1], preferences=wins)
    unjudged = make_group("h", [0.9, 0.4, 0.1])
    kept = load_sampler("large_margin", {"by": "preferences"}).keep(make_context(), [group, unjudged])
    assert [indices(one) for one in kept] == [[0, 1], None]  # win rates .3, .85, .35
    assert kept[0] is not None
    np.testing.assert_array_equal(np.asarray(kept[0].preferences), wins[:2, :2])


def test_rejection_accepts_by_the_closed_form() -> None:
    rewards, beta, runs = np.array([1.0, 0.7, 0.2, 1.0]), 0.5, 4000
    expected = np.exp((rewards - 1.0) / beta)
    np.testing.assert_allclose(acceptance(rewards, beta), expected, rtol=1e-12)
    rng = np.random.default_rng(0)
    frequency = sum(pass_once(rewards, beta, rng) for _ in range(runs)) / runs
    deviation = np.sqrt(expected * (1 - expected) / runs)
    assert (np.abs(frequency - expected) <= 4 * deviation).all()


def test_rejection_does_not_look_at_the_order() -> None:
    taken = np.zeros(4)
    for run in range(2000):
        taken[accept(np.array([0.5, 0.5, 0.5, 0.5]), 2, 0.5, np.random.default_rng(run))] += 1
    assert np.abs(taken / 2000 - 0.5).max() < 0.045  # four standard deviations


def test_rejection_samples_the_tilted_distribution() -> None:
    """One accepted of many candidates is a draw from pi exp(r / beta) / Z."""
    policy, reward, beta = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 1.0]), 0.5
    target = policy * np.exp(reward / beta)
    target /= target.sum()
    found = np.zeros(3)
    for run in range(3000):
        rng = np.random.default_rng(run)
        actions = rng.choice(3, 64, p=policy)
        (index,) = accept(reward[actions], 1, beta, rng)
        found[actions[index]] += 1
    assert np.abs(found / 3000 - target).sum() / 2 < 0.02


@given(rewards=st.lists(st.floats(-3, 3), max_size=8), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_rejection_always_ends_with_as_many_as_there_are(rewards: list[float], count: int, seed: int) -> None:
    accepted = accept(np.array(rewards), count, 0.1, np.random.default_rng(seed))
    assert len(set(accepted)) == min(count, len(rewards))
    if count == 1 and rewards:
        assert accepted


def test_rejection_leaves_absences_out(make_context: MakeContext, make_group: MakeGroup) -> None:
    groups = [make_group("a", [None, 0.5, None, 0.4]), make_group("b", [None, None])]
    kept = load_sampler("rejection").keep(make_context(), groups)
    assert [indices(group) for group in kept] == [[1, 3], None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"top": 1, "bottom": 0}, {(1,)}), ({"top": 1, "bottom": 1}, {(1, 4)}), ({"top": 0, "bottom": 2}, {(0, 4)})],
)
def test_ranks(make_context: MakeContext, make_group: MakeGroup, options: dict[str, int], expected: set[tuple[int, ...]]) -> None:
    group = make_group("g", [0.1, 0.9, None, 0.5, 0.0, 0.4])
    (kept,) = load_sampler("ranks", options).keep(make_context(), [group])
    assert {tuple(indices(kept) or ())} == expected


def test_ranks_at_random_are_never_the_best(make_context: MakeContext, make_group: MakeGroup) -> None:
    group = make_group("g", [0.1, 0.9, None, 0.5, 0.0, 0.4])
    ranks = load_sampler("ranks", {"top": 1, "bottom": 0, "random": 1})
    seen = {tuple(indices(ranks.keep(make_context(step), [group])[0]) or ()) for step in range(1, 60)}
    assert seen == {(0, 1), (1, 3), (1, 4), (1, 5)}


def test_ranks_must_keep_something() -> None:
    with pytest.raises(ValueError, match="keeps nothing"):
        load_sampler("ranks", {"top": 0, "bottom": 0})


def test_dynamic_drops_groups_that_teach_nothing(make_context: MakeContext, make_group: MakeGroup) -> None:
    groups = [make_group("a", [1.0, 1.0]), make_group("b", [1.0, 0.0]), make_group("c", [None, 1.0]), make_group("d", [0.0, None, 1.0])]
    kept = load_sampler("dynamic").keep(make_context(), groups)
    assert [group.id if group else None for group in kept] == [None, "b", None, "d"]


@pytest.mark.parametrize(("kept", "round_", "more"), [(1, 1, 3), (3, 2, 1), (4, 1, 0), (0, 3, 0)])
def test_dynamic_asks_for_what_is_missing_and_no_longer_than_it_may(make_context: MakeContext, kept: int, round_: int, more: int) -> None:
    assert load_sampler("dynamic", {"rounds": 3}).further(make_context(size=4), kept, round_) == more
