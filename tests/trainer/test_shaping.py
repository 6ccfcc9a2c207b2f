"""Dense rewards: shaping leaves returns and optimum alone, spans land on the right tokens, and the algorithms pay what they say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from rewardmesh.trainer.algorithms import load_algorithm
from rewardmesh.trainer.algorithms._dense import DensePPO
from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.credit import TokenCredit, TokenLayout
from rewardmesh.trainer.credit.dense import given_rewards, require_dense, shared_out_rewards, span_rewards, with_implicit_rewards
from rewardmesh.trainer.credit.shaping import attention_potentials, implicit_token_rewards, progress_potentials, shaping_rewards
from rewardmesh.trainer.credit.spans import (
    character_values_to_tokens,
    spans_to_token_rewards,
    token_character_ends,
    tokens_of_characters,
)
from rewardmesh.trainer.samples import Group, RewardSpan, Scores, all_rollouts

MakeGroup = Callable[..., Group]
LAYOUT = TokenLayout((3, 1, 5))
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _normal(count: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=count))


@settings(deadline=None, derandomize=True)
@given(LENGTHS, st.sampled_from([1.0, 0.9, 0.0]), st.integers(0, 99))
def test_shaping_takes_the_first_potential_off_every_return(lengths: tuple[int, ...], gamma: float, seed: int) -> None:
    layout = TokenLayout(lengths)
    potentials = _normal(layout.tokens, seed)
    rewards = shaping_rewards(potentials, layout, gamma)
    for start, end in pairwise(layout.offsets.tolist()):
        for begin in range(start, end):  # from any state on, not only the first
            discounts = gamma ** np.arange(end - begin)
            assert float(discounts @ rewards[begin:end].numpy()) == pytest.approx(-float(potentials[begin]), abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(LENGTHS, st.integers(0, 99))
def test_sharing_out_by_attention_keeps_the_score(lengths: tuple[int, ...], seed: int) -> None:
    layout = TokenLayout(lengths)
    attention, scores = _normal(layout.tokens, seed).abs(), _normal(layout.sequences, seed + 1)
    moved = shaping_rewards(attention_potentials(scores, attention, layout), layout)
    torch.testing.assert_close(layout.sum(moved), torch.zeros_like(scores), atol=1e-9, rtol=0)
    paid = moved.clone()
    paid[layout.offsets[1:] - 1] += scores
    torch.testing.assert_close(paid, (attention / layout.sum(attention)[layout.sequence_index]) * scores[layout.sequence_index])


def test_attention_that_looks_nowhere_leaves_the_score_at_the_end() -> None:
    potentials = attention_potentials(torch.ones(3), torch.zeros(9), LAYOUT)
    assert not potentials.any()
    with pytest.raises(ValueError, match="must not be negative"):
        attention_potentials(torch.ones(3), -torch.ones(9), LAYOUT)
    with pytest.raises(ValueError, match="attention has shape"):
        attention_potentials(torch.ones(3), torch.zeros(8), LAYOUT)


def test_progress_pays_token_rewards_as_they_come() -> None:
    rewards = _normal(9)
    moved = shaping_rewards(progress_potentials(rewards, LAYOUT), LAYOUT)
    expected = rewards.clone()
    expected[LAYOUT.offsets[1:] - 1] -= LAYOUT.sum(rewards)
    torch.testing.assert_close(moved, expected)


def test_implicit_token_rewards_telescope() -> None:
    """Their sum over a completion is beta log(pi_dpo(y) / pi_ref(y)), the reward the tuned policy is optimal for, up to a constant."""
    tuned, reference = _normal(9, 1), _normal(9, 2)
    total = LAYOUT.sum(implicit_token_rewards(tuned, reference, 0.3))
    torch.testing.assert_close(total, 0.3 * (LAYOUT.sum(tuned) - LAYOUT.sum(reference)))


TREE_LAYOUT = TokenLayout((2, 2, 2, 2))
TREE_SCORES = torch.tensor([[0.0, 1.0], [0.7, 0.2]], dtype=torch.float64)


def _tree_policy(moved: Tensor, temperature: float = 0.2) -> Tensor:
    """Two tokens of two kinds: where exact policy gradient with entropy ends, each token credited with the rewards from itself on.

    `moved` float64[8]: what the tokens of the four completions are paid beside the score at the end.
    """
    first = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    second = torch.zeros((2, 2), dtype=torch.float64, requires_grad=True)
    early, late = moved.reshape(2, 2, 2)[..., 0], moved.reshape(2, 2, 2)[..., 1] + TREE_SCORES
    for _ in range(1500):
        log_head, log_tail = first.log_softmax(0), second.log_softmax(1)
        probability = log_head.exp()[:, None] * log_tail.exp()
        gain = (probability.detach() * (log_head[:, None] * (early + late) + log_tail * late)).sum()
        entropy = -(probability * (log_head[:, None] + log_tail)).sum()
        gradients = torch.autograd.grad(gain + temperature * entropy, [first, second])
        with torch.no_grad():
            first += 2 * gradients[0]
            second += 2 * gradients[1]
    return (first.softmax(0)[:, None] * second.softmax(1)).detach()


def test_shaping_leaves_the_best_policy_where_it_is_unless_it_looks_ahead() -> None:
    best = (TREE_SCORES / 0.2).exp()
    best /= best.sum()
    torch.testing.assert_close(_tree_policy(torch.zeros(8, dtype=torch.float64)), best, atol=1e-4, rtol=0)
    # What the first token is paid depends on it alone: a potential.
    seen = torch.tensor([0.9, 0.3, 0.9, -1.0, -0.4, 2.0, -0.4, 0.1], dtype=torch.float64)
    causal = shaping_rewards(progress_potentials(seen, TREE_LAYOUT), TREE_LAYOUT)
    torch.testing.assert_close(_tree_policy(causal), best, atol=1e-4, rtol=0)
    # An attention map knows the whole completion: what the first token is paid depends on the second.
    attention = torch.tensor([3.0, 1.0, 0.5, 2.0, 1.0, 1.0, 5.0, 0.1], dtype=torch.float64)
    hindsight = shaping_rewards(attention_potentials(TREE_SCORES.flatten(), attention, TREE_LAYOUT), TREE_LAYOUT)
    assert float((_tree_policy(hindsight) - best).abs().sum() / 2) > 0.01


TOKENS = ["Two", " plus", " tw", "o", " is", "", " 4"]


def _decode(ids: Sequence[int]) -> str:
    return "".join(TOKENS[id_] for id_ in ids)


def test_character_spans_find_their_tokens() -> None:
    ends = token_character_ends(_decode, np.arange(7, dtype=np.int32))
    assert ends.tolist() == [3, 8, 11, 12, 15, 15, 17]
    assert tokens_of_characters(0, 3, ends) == (0, 1)
    assert tokens_of_characters(4, 8, ends) == (1, 2)
    assert tokens_of_characters(9, 12, ends) == (2, 4)
    assert tokens_of_characters(11, 17, ends) == (3, 7)
    assert tokens_of_characters(2, 4, ends) == (0, 2)
    assert tokens_of_characters(17, 20, ends) is None
    assert tokens_of_characters(5, 5, ends) is None
    assert token_character_ends(_decode, np.zeros(0, dtype=np.int32)).tolist() == []


def test_a_code_point_of_several_tokens_belongs_to_the_one_that_completes_it() -> None:
    pieces = [b"a", b"\xc3", b"\xa9", b"b"]  # a, é in two halves, b
    ends = token_character_ends(
        lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace"), np.arange(4, dtype=np.int32)
    )
    assert ends.tolist() == [1, 1, 2, 3]
    assert tokens_of_characters(1, 2, ends) == (2, 3)


def test_span_values_are_placed_as_asked_and_add_up() -> None:
    spans = (RewardSpan(0, 2, 1.0), RewardSpan(1, 4, -3.0))
    assert spans_to_token_rewards(spans, 5, "each").tolist() == [1, -2, -3, -3, 0]
    assert spans_to_token_rewards(spans, 5, "end").tolist() == [0, 1, 0, -3, 0]
    assert spans_to_token_rewards(spans, 5, "spread").tolist() == [0.5, -0.5, -1, -1, 0]
    with pytest.raises(ValueError, match="ends beyond"):
        spans_to_token_rewards(spans, 3, "each")


def test_values_of_another_tokenizer_keep_their_sum() -> None:
    ends = token_character_ends(_decode, np.arange(7, dtype=np.int32))
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    offsets = np.array([[0, 1], [1, 5], [5, 12], [12, 17], [0, 0]])  # the last is a special token
    rewards = character_values_to_tokens(values, offsets, ends)
    assert rewards.tolist() == [1, 2, 0, 4, 0, 0, 24]
    assert rewards.sum() == values.sum()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardSpan(2, 2, 1.0), "0 <= start < end"),
        (lambda: RewardSpan(-1, 2, 1.0), "0 <= start < end"),
        (lambda: RewardSpan(0, 2, float("nan")), "must be finite"),
        (lambda: Scores(1.0, token_rewards=np.array([np.nan], dtype=np.float32)), "token_rewards must be finite"),
        (lambda: Scores(1.0, token_rewards=np.zeros((1, 1), dtype=np.float32)), "token_rewards must be finite"),
    ],
)
def test_dense_scores_refuse_what_is_no_reward(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_group_refuses_dense_scores_that_do_not_fit(make_group: MakeGroup) -> None:
    group = make_group("g", [0.0], lengths=[2])
    with pytest.raises(ValueError, match="token_rewards of g/0 has 3 values for 2"):
        replace(group, scores=(Scores(0.0, token_rewards=np.zeros(3, dtype=np.float32)),))
    with pytest.raises(ValueError, match="spans of g/0 has 1:3 for 2"):
        replace(group, scores=(Scores(0.0, spans=(RewardSpan(1, 3, 1.0),)),))


def _dense_group(make_group: MakeGroup) -> Group:
    """Rollout 0 has token rewards and spans, 1 neither, 2 is absent."""
    group = make_group("g", [2.0, 1.0, None], lengths=[3, 2, 2])
    given = replace(group.scores[0], token_rewards=np.array([1.0, 0.0, 3.0], dtype=np.float32), spans=(RewardSpan(1, 3, -1.0),))
    return replace(group, scores=(given, *group.scores[1:]))


def test_where_token_rewards_come_from(make_group: MakeGroup) -> None:
    groups = [_dense_group(make_group)]
    assert {name: values.tolist() for name, values in given_rewards(groups, 0.5).items()} == {"g/0": [0.5, 0, 1.5]}
    assert {name: values.tolist() for name, values in span_rewards(groups, 2.0, "each").items()} == {"g/0": [0, -2, -2]}
    moved = shared_out_rewards(groups, 0.5, "attention", 1.0)
    assert {name: values.tolist() for name, values in moved.items()} == {"g/0": [0.25, 0, 0.75 - 1]}
    signed = shared_out_rewards(groups, 1.0, "rewards", 1.0)
    assert {name: values.tolist() for name, values in signed.items()} == {"g/0": [1, 0, 3 - 4]}
    assert [scores.absence for scores in require_dense(groups, spans=True)[0].scores] == [None, "NO_TOKEN_REWARDS", "INFRASTRUCTURE"]
    assert [scores.absence for scores in require_dense(groups, spans=False)[0].scores] == [None, "NO_TOKEN_REWARDS", "INFRASTRUCTURE"]


def test_implicit_rewards_of_a_group(make_group: MakeGroup) -> None:
    group = make_group("g", [2.0, 1.0], lengths=[3, 2])
    tuned = np.array([-1.0, -2.0, -3.0], dtype=np.float32)
    reference = group.reference_log_probs[0]
    assert reference is not None
    paid = with_implicit_rewards(group, [tuned, None], 0.1)
    given = paid.scores[0].token_rewards
    assert given is not None
    np.testing.assert_allclose(given, 0.1 * (tuned - reference), rtol=1e-6)
    assert paid.scores[1].token_rewards is None
    with pytest.raises(ValueError, match="zip"):
        with_implicit_rewards(group, [tuned], 0.1)


def _advantages(credit: TokenCredit) -> dict[str, list[float]]:
    bounds = credit.layout.offsets.tolist()
    return {r.id: credit.advantages[a:b].tolist() for r, (a, b) in zip(credit.rollouts, pairwise(bounds), strict=True)}


@pytest.mark.parametrize(
    ("name", "config", "paid"),
    [
        ("rto", {"token_coef": 0.5}, [0.5, 0, 1.5]),
        ("text2grad", {"span_coef": 2.0}, [0, -2, -2]),
        ("text2grad", {"placement": "end"}, [0, 0, -1]),
        ("abc_ppo", {"share": 0.5}, [0.25, 0, -0.25]),
        ("abc_ppo", {"share": 1.0, "token_map": "rewards"}, [1, 0, -1]),
    ],
)
def test_dense_algorithms_pay_their_tokens(make_group: MakeGroup, name: str, config: dict[str, object], paid: list[float]) -> None:
    """With lambda and gamma 1 an advantage is the reward still to come less the value: that of PPO, and what is paid from there on."""
    common: dict[str, object] = {"lam": 1.0, "whiten_advantages": False}
    groups = [_dense_group(make_group)]
    values = _normal(sum(rollout.length for rollout in all_rollouts(groups))).float()
    plain = _advantages(PPO(PPOConfig.model_validate(common)).credit(groups, _rng(), values))
    algorithm = load_algorithm(name, {**common, **config})
    credit = algorithm.credit(groups, _rng(), values)
    assert isinstance(credit, TokenCredit)
    to_come = np.cumsum(paid[::-1])[::-1]
    np.testing.assert_allclose(_advantages(credit)["g/0"], np.array(plain["g/0"]) + to_come, atol=1e-6)
    assert credit.left_out == {"sample:absent:NO_TOKEN_REWARDS": 1, "sample:absent:INFRASTRUCTURE": 1}
    lenient = load_algorithm(name, {**common, **config, "without_token_rewards": "score_only"}).credit(groups, _rng(), values)
    assert isinstance(lenient, TokenCredit)
    assert _advantages(lenient)["g/1"] == plain["g/1"]
    assert lenient.left_out == {"sample:absent:INFRASTRUCTURE": 1}


def test_abc_moves_the_advantages_but_not_the_return(make_group: MakeGroup) -> None:
    """The advantage of a completion's first token, which is its return less the value, is PPO's."""
    groups = [_dense_group(make_group)]
    values = torch.zeros(7)
    common: dict[str, object] = {"lam": 1.0, "whiten_advantages": False}
    plain = _advantages(PPO(PPOConfig.model_validate(common)).credit(groups, _rng(), values))["g/0"]
    shaped = load_algorithm("abc_ppo", {**common, "share": 1.0}).credit(groups, _rng(), values)
    assert isinstance(shaped, TokenCredit)
    advantages = _advantages(shaped)["g/0"]
    assert advantages[0] == pytest.approx(plain[0], abs=1e-6)
    assert advantages[1] != pytest.approx(plain[1], abs=1e-3)


def test_dense_algorithms_have_ppos_loss_and_state(make_group: MakeGroup) -> None:
    groups = [_dense_group(make_group)]
    algorithm = load_algorithm("rto", {"target_kl": 1e-3, "kl_horizon": 10.0})
    assert isinstance(algorithm, DensePPO)
    credit = algorithm.credit(groups, _rng(), torch.zeros(7))
    assert isinstance(credit, TokenCredit)
    output = algorithm.loss(credit, credit.old_log_probs + 0.05, torch.zeros(3))
    assert output.metrics["loss"] == PPO(PPOConfig()).loss(credit, credit.old_log_probs + 0.05, torch.zeros(3)).metrics["loss"]
    algorithm.finish_step(credit)
    resumed = load_algorithm("rto", {"target_kl": 1e-3, "kl_horizon": 10.0})
    resumed.load_state(algorithm.state())
    assert resumed.state() == algorithm.state() != load_algorithm("rto", {"target_kl": 1e-3, "kl_horizon": 10.0}).state()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("rto", {"token_coef": 0}),
        ("rto", {"without_token_rewards": "zero"}),
        ("text2grad", {"placement": "start"}),
        ("abc_ppo", {"share": 1.5}),
    ],
)
def test_bad_dense_configurations_are_refused(name: str, config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        load_algorithm(name, config)
