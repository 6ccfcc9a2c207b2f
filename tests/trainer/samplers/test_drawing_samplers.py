"""What is drawn for a prompt: by whom, how many, from where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.samplers import Draw, SamplerChain, StepContext, load_sampler
from rewardmesh.trainer.samples import Group

MakeContext = Callable[..., StepContext]


def test_greedy_adds_one_from_the_same_state(make_context: MakeContext, prompts: list[Prompt]) -> None:
    draws = load_sampler("greedy").draw(make_context(), prompts[0], [Draw(4, prefix=(1, 2))])
    assert draws == [Draw(4, prefix=(1, 2)), Draw(1, "greedy", prefix=(1, 2))]


@pytest.mark.parametrize(("step", "checkpoint"), [(1, 0), (3, 0), (4, 0), (5, 2), (6, 2), (7, 4)])
def test_opponent_draws_from_an_earlier_policy(make_context: MakeContext, prompts: list[Prompt], step: int, checkpoint: int) -> None:
    opponent = load_sampler("opponent", {"source": "checkpoint", "n": 2, "every": 2, "lag": 2})
    draws = opponent.draw(make_context(step), prompts[0], [Draw(3)])
    assert draws == [Draw(1), Draw(2, "checkpoint", checkpoint=checkpoint)]


def test_opponent_may_be_the_reference(make_context: MakeContext, prompts: list[Prompt]) -> None:
    opponent = load_sampler("opponent", {"source": "reference"})
    assert opponent.draw(make_context(9), prompts[0], [Draw(2)]) == [Draw(1), Draw(1, "reference")]
    assert opponent.checkpoint is not None
    assert opponent.checkpoint.holds(0)
    assert not opponent.checkpoint.holds(5)


def test_two_opponents_share_the_completions(make_context: MakeContext, prompts: list[Prompt]) -> None:
    chain = SamplerChain([load_sampler("opponent"), load_sampler("mixture", {"n": 2, "reference_weight": 0.25})])
    draws, given = chain.draw(make_context(), prompts[0], 4)
    assert draws == [Draw(1), Draw(1, "reference"), Draw(2, "mixture", reference_weight=0.25)]
    assert given == []
    assert [draw.source for draw in chain.draw(make_context(), prompts[0], 3)[0]] == ["reference", "mixture"]
    with pytest.raises(ValueError, match="2 of a prompt's completions are to come from the mixture, the policy has only 1"):
        chain.draw(make_context(), prompts[0], 2)


def test_pilaf_splits_half_of_the_prompts(make_context: MakeContext, prompts: list[Prompt]) -> None:
    pilaf = load_sampler("pilaf", {"beta": 0.3})
    seen: Counter[tuple[Draw, ...]] = Counter()
    for step in range(1, 101):
        for prompt in prompts:
            seen[tuple(pilaf.draw(make_context(step), prompt, [Draw(4)]))] += 1
    plain, split = (Draw(4),), (Draw(2, "mixture", reference_weight=-0.3), Draw(2, "mixture", reference_weight=0.3))
    assert set(seen) == {plain, split}
    assert abs(seen[split] / sum(seen.values()) - 0.5) < 0.06  # four standard deviations
    assert pilaf.draw(make_context(3), prompts[2], [Draw(4)]) == pilaf.draw(make_context(3), prompts[2], [Draw(4)])


def test_reset_starts_from_prefixes_of_the_demonstration(make_context: MakeContext, prompts: list[Prompt]) -> None:
    reset = load_sampler("reset", {"probability": 0.5, "longest": 0.5})
    lengths: Counter[int] = Counter()
    answer = make_context().codec.encode(prompts[3].demonstrations[0])
    for step in range(1, 801):
        (draw,) = reset.draw(make_context(step), prompts[3], [Draw(3)])
        assert draw.n == 3
        assert list(draw.prefix) == answer[: len(draw.prefix)]
        lengths[len(draw.prefix)] += 1
    longest = len(answer) // 2
    assert set(lengths) == set(range(longest + 1))
    assert abs(lengths[0] / 800 - 0.5) < 0.08
    assert max(lengths[n] for n in range(1, longest + 1)) < 2 * 400 / longest


def test_reset_leaves_a_prompt_without_demonstration_alone(make_context: MakeContext) -> None:
    bare = Prompt("bare", (("user", "q"),), ())
    assert load_sampler("reset", {"probability": 1.0}).draw(make_context(), bare, [Draw(2)]) == [Draw(2)]


def test_spin_sets_the_demonstration_against_the_opponent(make_context: MakeContext, prompts: list[Prompt]) -> None:
    spin = load_sampler("spin", {"every": 5})
    assert spin.draw(make_context(12), prompts[0], [Draw(2)]) == [Draw(2, "checkpoint", checkpoint=10)]
    (given,) = spin.recall(make_context(12), prompts[0])
    assert (given.source, given.sampling_log_probs) == ("demonstration", None)
    assert make_context().codec.decode(given.completion_ids) == prompts[0].demonstrations[0]
    assert given.completion_ids[-1] == 0


def test_spin_labels_only_against_the_demonstration(make_context: MakeContext, make_group: Callable[..., Group]) -> None:
    group = make_group("g", [0.2, 0.9, 0.1])
    shown = replace(group, rollouts=(*group.rollouts[:2], replace(group.rollouts[2], source="demonstration")))
    (kept, dropped) = load_sampler("spin").keep(make_context(), [shown, group])
    assert dropped is None
    assert kept is not None
    expected = np.array([[np.nan, np.nan, 0], [np.nan, np.nan, 0], [1, 1, np.nan]])
    np.testing.assert_array_equal(np.asarray(kept.preferences), expected)
    assert [scores.reward for scores in kept.scores] == [0.2, 0.9, 0.1]
