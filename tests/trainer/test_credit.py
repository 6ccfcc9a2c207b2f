"""Credit: who is paired with whom, what each token is worth, what is left out, and how batches are cut."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewardmesh.trainer.algorithms.ipo import IPO, IPOConfig
from rewardmesh.trainer.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.credit import PairCredit, TokenLayout, micro_batches, minibatches, pair_credit, token_credit
from rewardmesh.trainer.credit.base import Credit
from rewardmesh.trainer.samples import Group, all_rollouts

MakeGroup = Callable[..., Group]
NAN = float("nan")


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _labelled(credit: PairCredit) -> dict[tuple[str, str], float]:
    ids = [rollout.id for rollout in credit.rollouts]
    pairs = zip(credit.first.tolist(), credit.second.tolist(), credit.p_first.tolist(), strict=True)
    return {(ids[i], ids[j]): p for i, j, p in pairs}


def _values(groups: list[Group], seed: int = 0) -> torch.Tensor:
    count = sum(rollout.length for rollout in all_rollouts(groups))
    return torch.tensor(np.random.default_rng(seed).normal(size=count), dtype=torch.float32)


def test_layout_sums_each_sequence_alone() -> None:
    layout = TokenLayout((2, 1, 3))
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], requires_grad=True)
    assert layout.sum(values).tolist() == [3, 3, 15]
    assert layout.mean(values).tolist() == [1.5, 3, 5]
    assert layout.offsets.tolist() == [0, 2, 3, 6]
    assert layout.sequence_index.tolist() == [0, 0, 1, 2, 2, 2]
    assert layout.token_index([2, 0]).tolist() == [3, 4, 5, 0, 1]
    with pytest.raises(ValueError, match="log_probs has shape"):
        layout.check(torch.zeros(5), "log_probs")


def test_reward_labels_are_bradley_terry_probabilities(make_group: MakeGroup) -> None:
    credit = pair_credit([make_group("g", [1.0, 3.0, 1.0])], _rng(), reward_temperature=2.0)
    assert _labelled(credit) == pytest.approx(
        {("g/0", "g/1"): 1 / (1 + np.e), ("g/0", "g/2"): 0.5, ("g/1", "g/2"): np.e / (1 + np.e)}, abs=1e-6
    )
    assert credit.normaliser == 3
    assert credit.left_out == {}


def test_absent_rollouts_are_in_no_pair_and_counted(make_group: MakeGroup) -> None:
    groups = [make_group("g", [1.0, None, 2.0]), make_group("h", [None, 0.0]), make_group("i", [None, None])]
    credit = pair_credit(groups, _rng())
    assert list(_labelled(credit)) == [("g/0", "g/2")]
    assert credit.left_out == {"sample:absent:INFRASTRUCTURE": 4, "group:fewer_than_two_rollouts": 2, "sample:no_partner": 1}
    rows = credit.ledger_rows()
    assert rows["g/1"] == {"credit": None, "credit_kind": "win_probability", "pairs": 0, "left_out": "absent:INFRASTRUCTURE"}
    assert rows["h/1"]["left_out"] == "no_partner"
    assert rows["g/2"]["credit"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert rows["g/2"]["pairs"] == 1
    assert set(rows) == {rollout.id for rollout in all_rollouts(groups)}


def test_aborted_empty_and_unreferenced_rollouts_are_left_out(make_group: MakeGroup) -> None:
    group = make_group(
        "g", [0.0, 1.0, 2.0, 3.0, 4.0], lengths=[2, 3, 0, 1, 2], finish_reasons=["stop", "aborted", "stop", "stop", "length"]
    )
    group = replace(group, reference_log_probs=(*group.reference_log_probs[:3], None, group.reference_log_probs[4]))
    credit = pair_credit([group], _rng())
    assert list(_labelled(credit)) == [("g/0", "g/4")]
    assert credit.left_out == {"sample:aborted": 1, "sample:empty_completion": 1, "sample:no_reference_log_probs": 1}


def test_preferences_average_both_orders_and_absent_ones_are_no_pair(make_group: MakeGroup) -> None:
    preferences = np.array([[NAN, 0.9, NAN], [0.3, NAN, NAN], [NAN, 0.25, NAN]])
    group = make_group("g", [5.0, 0.0, 0.0], preferences=preferences)
    judged = pair_credit([group], _rng(), source="preferences")
    assert _labelled(judged) == pytest.approx({("g/0", "g/1"): 0.8, ("g/1", "g/2"): 0.75}, abs=1e-6)
    assert judged.left_out == {"pair:no_preference": 1}
    mixed = pair_credit([group], _rng(), source="mixed")
    assert _labelled(mixed)["g/0", "g/2"] == pytest.approx(1 / (1 + np.exp(-5)))
    nobody = pair_credit([make_group("h", [0.0, 1.0])], _rng(), source="preferences")
    assert nobody.is_empty
    assert nobody.left_out == {"pair:no_preference": 1, "sample:no_pair": 2}


def test_hard_labels_keep_ties(make_group: MakeGroup) -> None:
    credit = pair_credit([make_group("g", [1.0, 1.0, 2.0])], _rng(), label="hard")
    assert credit.p_first.tolist() == [0.5, 0, 0]


def test_pair_selection(make_group: MakeGroup) -> None:
    group = make_group("g", [0.0, 4.0, -3.0, 1.0, 2.0])
    assert list(_labelled(pair_credit([group], _rng(), selection="max_min"))) == [("g/1", "g/2")]
    matched = pair_credit([group], _rng(), selection="random")
    assert matched.pairs == 2
    assert len(matched.rollouts) == 4
    assert matched.left_out == {"sample:no_pair": 1}
    assert _labelled(matched) == _labelled(pair_credit([group], _rng(), selection="random"))
    assert pair_credit([make_group("h", [1.0, 1.0, 1.0])], _rng(), selection="max_min").p_first.tolist() == [0.5]


def test_min_margin_leaves_close_pairs_out(make_group: MakeGroup) -> None:
    credit = pair_credit([make_group("g", [0.0, 0.1, 3.0])], _rng(), min_margin=0.5)
    assert list(_labelled(credit)) == [("g/0", "g/2"), ("g/1", "g/2")]
    assert credit.left_out == {"pair:below_min_margin": 1}


def test_token_rewards_put_the_score_on_the_last_token(make_group: MakeGroup) -> None:
    group = make_group("g", [2.0], lengths=[3])
    reference = group.reference_log_probs[0]
    assert reference is not None
    kl = group.rollouts[0].sampling_log_probs.astype(np.float64) - reference
    credit = token_credit([group], torch.zeros(3), kl_coef=0.1, lam=1.0, whiten_advantages=False)
    rewards = -0.1 * kl
    rewards[-1] += 2.0
    np.testing.assert_allclose(credit.advantages.numpy(), np.cumsum(rewards[::-1])[::-1], rtol=1e-5)
    assert credit.metrics["kl"] == pytest.approx(kl.sum())
    assert credit.metrics["score"] == 2


def test_reward_clip_and_truncation_penalty(make_group: MakeGroup) -> None:
    group = make_group("g", [9.0, 9.0], lengths=[1, 1], finish_reasons=["stop", "length"], with_reference=False)
    credit = token_credit([group], torch.zeros(2), kl_coef=0.0, reward_clip=5.0, missing_eos_penalty=1.0, whiten_advantages=False)
    assert credit.advantages.tolist() == [5, 4]
    assert credit.metrics["truncated"] == 0.5


def test_values_go_with_every_rollout_and_absences_touch_nobody_else(make_group: MakeGroup) -> None:
    whole = [make_group("g", [1.0, 2.0, 0.5]), make_group("h", [0.0, 1.0])]
    holed = [replace(whole[0], scores=(whole[0].scores[0], make_group("x", [None]).scores[0], whole[0].scores[2])), whole[1]]
    values = _values(whole)
    full = token_credit(whole, values, kl_coef=0.05, whiten_advantages=False)
    part = token_credit(holed, values, kl_coef=0.05, whiten_advantages=False)
    kept = [0, 2, 3, 4]
    assert torch.equal(part.advantages, full.select(kept).advantages)
    assert part.returns is not None
    assert torch.equal(part.returns, full.returns[full.layout.token_index(kept)])  # type: ignore[index]
    assert part.left_out == {"sample:absent:INFRASTRUCTURE": 1}
    assert part.ledger_rows()["g/1"]["credit"] is None
    white = token_credit(holed, values, kl_coef=0.05)
    assert white.advantages.double().mean().item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="values has shape"):
        token_credit(holed, values[1:], kl_coef=0.05)


def test_everything_absent_is_an_empty_credit(make_group: MakeGroup) -> None:
    groups = [make_group("g", [None, None])]
    for credit in (pair_credit(groups, _rng()), token_credit(groups, _values(groups), kl_coef=0.1)):
        assert credit.is_empty
        assert list(minibatches(credit, 2, _rng())) == []
        assert list(micro_batches(credit, 10)) == []
    assert float(OnlineDPO(OnlineDPOConfig()).loss(pair_credit(groups, _rng()), torch.zeros(0)).loss) == 0


def _batch(make_group: MakeGroup) -> list[Group]:
    return [make_group(f"g{k}", [float(k % 3), 1.0, None if k % 4 == 0 else 0.3, 2.0]) for k in range(8)]


def _log_probs(credit: Credit, by_id: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([by_id[rollout.id] for rollout in credit.rollouts])


@pytest.mark.parametrize("algorithm", [OnlineDPO(OnlineDPOConfig()), IPO(IPOConfig()), PPO(PPOConfig())])
def test_eight_micro_batches_of_one_equal_one_of_eight(make_group: MakeGroup, algorithm: OnlineDPO | IPO | PPO) -> None:
    groups = _batch(make_group)
    rng = np.random.default_rng(5)
    log_probs = {r.id: torch.tensor(-rng.exponential(size=r.length), requires_grad=True) for r in all_rollouts(groups)}
    values = {r.id: torch.tensor(rng.normal(size=r.length), requires_grad=True) for r in all_rollouts(groups)}
    credit = algorithm.credit(groups, _rng(), _values(groups))

    def run(max_tokens: int) -> tuple[int, dict[str, float], list[torch.Tensor]]:
        parts = list(micro_batches(credit, max_tokens))
        metrics: dict[str, float] = {}
        for leaf in [*log_probs.values(), *values.values()]:
            leaf.grad = None
        for part in parts:
            output = algorithm.loss(part, _log_probs(part, log_probs), _log_probs(part, values))
            output.loss.backward()  # type: ignore[no-untyped-call]
            for name, share in output.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + share
        return len(parts), metrics, [leaf.grad.clone() for leaf in [*log_probs.values(), *values.values()] if leaf.grad is not None]

    one, whole, whole_gradient = run(10_000)
    many, pieces, piece_gradient = run(1)
    assert one == 1
    assert many >= 8
    assert pieces == pytest.approx(whole, rel=1e-9, abs=1e-12)
    assert len(whole_gradient) == len(piece_gradient)
    for left, right in zip(whole_gradient, piece_gradient, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


def test_micro_batches_respect_the_token_budget_and_lose_nothing(make_group: MakeGroup) -> None:
    groups = _batch(make_group)
    credit = token_credit(groups, _values(groups), kl_coef=0.05)
    parts = list(micro_batches(credit, 25))
    assert [r.id for part in parts for r in part.rollouts] == [r.id for r in credit.rollouts]
    for part in parts:
        prompts = {rollout.group_id: len(rollout.prompt_ids) for rollout in part.rollouts}
        assert sum(prompts.values()) + part.layout.tokens <= 25
        assert part.normaliser == credit.normaliser


def test_minibatches_cover_the_batch_once_each_with_its_own_weight(make_group: MakeGroup) -> None:
    groups = _batch(make_group)
    for credit in (pair_credit(groups, _rng()), token_credit(groups, _values(groups), kl_coef=0.05)):
        parts = list(minibatches(credit, 3, _rng()))
        assert len(parts) == 3
        assert sorted(r.id for part in parts for r in part.rollouts) == sorted(r.id for r in credit.rollouts)
        assert all(part.normaliser == part.total_weight for part in parts)
        assert sum(part.total_weight for part in parts) == credit.total_weight


def test_one_group_is_cut_into_rollouts_for_tokens_but_never_through_a_pair(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0, 2.0, 3.0])]
    assert len(list(minibatches(token_credit(groups, _values(groups), kl_coef=0.0), 4, _rng()))) == 4
    pairs = pair_credit(groups, _rng())
    assert len(list(minibatches(pairs, 4, _rng()))) == 1
    with pytest.raises(ValueError, match="cut a pair"):
        pairs.select([0, 1])
