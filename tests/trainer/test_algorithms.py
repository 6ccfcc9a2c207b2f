"""Algorithms as the loop sees them: lookup, configuration, state; and what must never change a loss."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rewardmesh.trainer.algorithms import Algorithm, known_algorithms, load_algorithm
from rewardmesh.trainer.algorithms.ipo import IPO, IPOConfig
from rewardmesh.trainer.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.algorithms.slic import SLiC, SLiCConfig
from rewardmesh.trainer.credit import token_credit
from rewardmesh.trainer.samples import Group, Scores, all_rollouts

MakeGroup = Callable[..., Group]
REWARDS = st.lists(st.none() | st.floats(-5, 5, allow_nan=False, width=32), min_size=2, max_size=6)


def test_every_algorithm_is_found_by_name() -> None:
    assert set(known_algorithms()) >= {"online_dpo", "ppo"}
    for name in known_algorithms():
        algorithm = load_algorithm(name)
        assert algorithm.name == name
        assert algorithm.epochs == algorithm.config.epochs
        algorithm.load_state(algorithm.state())
    with pytest.raises(ValueError, match=r"unknown algorithm 'grpoo'.*, known: .*online_dpo.*ppo"):
        load_algorithm("grpoo")
    with pytest.raises(ValueError, match="unknown algorithm '_base'"):
        load_algorithm("_base")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("online_dpo", {"beta": 0}),
        ("online_dpo", {"betta": 0.1}),
        ("online_dpo", {"length_normalised": True}),
        ("ppo", {"target_kl": 6.0, "kl_coef": 0}),
        ("ppo", {"dual_clip": 0.5}),
    ],
)
def test_bad_configurations_are_refused(name: str, config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        load_algorithm(name, config)


def test_a_loss_refuses_the_other_kind_of_credit(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0], lengths=[1, 1])]
    dpo, ppo = OnlineDPO(OnlineDPOConfig()), PPO(PPOConfig())
    pairs, tokens = dpo.credit(groups, np.random.default_rng(0)), ppo.credit(groups, np.random.default_rng(0), torch.zeros(2))
    with pytest.raises(TypeError, match="TokenCredit"):
        dpo.loss(tokens, torch.zeros(2))
    with pytest.raises(TypeError, match="PairCredit"):
        ppo.loss(pairs, torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="critic"):
        ppo.credit(groups, np.random.default_rng(0))
    with pytest.raises(ValueError, match="log_probs has shape"):
        dpo.loss(pairs, torch.zeros(3))


def test_online_dpo_metrics(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 0.0], lengths=[1, 2])
    reference = [array for array in group.reference_log_probs if array is not None]
    algorithm = OnlineDPO(OnlineDPOConfig(beta=0.5))
    credit = algorithm.credit([group], np.random.default_rng(0))
    log_probs = torch.from_numpy(np.concatenate(reference)) + torch.tensor([0.4, 0.1, 0.1])
    metrics = algorithm.loss(credit, log_probs).metrics
    assert metrics["margin"] == pytest.approx(0.5 * (0.4 - 0.2), abs=1e-6)
    assert metrics["pair_accuracy"] == 1
    assert metrics["kl"] == pytest.approx(0.3, abs=1e-6)
    p, h = 1 / (1 + np.exp(-1)), 0.1
    assert metrics["loss"] == pytest.approx(p * np.log1p(np.exp(-h)) + (1 - p) * np.log1p(np.exp(h)), abs=1e-6)


def test_length_normalised_ipo_uses_token_means(make_group: MakeGroup) -> None:
    group = make_group("g", [1.0, 0.0], lengths=[4, 2])
    reference = torch.cat([torch.from_numpy(array) for array in group.reference_log_probs if array is not None])
    algorithm = IPO(IPOConfig(length_normalised=True))
    output = algorithm.loss(algorithm.credit([group], np.random.default_rng(0)), reference + 0.3)
    p = 1 / (1 + np.exp(-1))
    assert output.metrics["loss"] == pytest.approx(p * 25 + (1 - p) * 25, rel=1e-5)  # equal means: margin 0


def test_adaptive_kl_survives_a_resume(make_group: MakeGroup) -> None:
    groups = [make_group("g", [0.0, 1.0], lengths=[3, 3])]
    config = PPOConfig(target_kl=1e-3, kl_horizon=10)
    algorithm = PPO(config)
    credit = algorithm.credit(groups, np.random.default_rng(0), torch.zeros(6))
    assert algorithm.finish_step(credit)["kl_coef"] != config.kl_coef
    resumed = PPO(config)
    resumed.load_state(algorithm.state())
    assert resumed.kl_coef == algorithm.kl_coef
    with pytest.raises(ValueError, match="state has"):
        resumed.load_state({})


def _loss(algorithm: Algorithm, groups: list[Group], log_probs: dict[str, float]) -> float:
    """Log-probs and values of a rollout are functions of its id: they follow it through any order."""
    values = torch.cat([torch.full((r.length,), log_probs[r.id] / 2) for r in all_rollouts(groups)])
    credit = algorithm.credit(groups, np.random.default_rng(0), values)
    if credit.is_empty:
        return 0.0
    new = torch.cat([torch.full((r.length,), log_probs[r.id]) for r in credit.rollouts]).double()
    return float(algorithm.loss(credit, new, new / 3).loss)


def _permuted(group: Group, order: list[int]) -> Group:
    return replace(
        group,
        rollouts=tuple(group.rollouts[k] for k in order),
        scores=tuple(group.scores[k] for k in order),
        reference_log_probs=tuple(group.reference_log_probs[k] for k in order),
        preferences=None if group.preferences is None else group.preferences[np.ix_(order, order)],
    )


@pytest.mark.parametrize(
    "algorithm",
    [
        OnlineDPO(OnlineDPOConfig()),
        IPO(IPOConfig(label_source="preferences")),
        SLiC(SLiCConfig(label_source="mixed", label="hard")),
        PPO(PPOConfig()),
    ],
    ids=["dpo", "ipo", "hinge", "ppo"],
)
def test_permuting_rollouts_never_changes_the_loss(make_group: MakeGroup, algorithm: Algorithm) -> None:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(REWARDS, REWARDS, st.randoms(use_true_random=False))
    def check(first: list[float | None], second: list[float | None], random: object) -> None:
        shuffle = random.shuffle  # type: ignore[attr-defined]
        groups = []
        for name, rewards in (("g", first), ("h", second)):
            matrix = np.random.default_rng(len(rewards)).uniform(size=(len(rewards), len(rewards)))
            matrix[0, -1] = np.nan
            groups.append(make_group(name, rewards, preferences=matrix))
        log_probs = {r.id: -0.1 - 0.37 * (k % 5) for k, r in enumerate(all_rollouts(groups))}
        shuffled = []
        for group in groups:
            order = list(range(len(group.rollouts)))
            shuffle(order)
            shuffled.append(_permuted(group, order))
        shuffle(shuffled)
        assert _loss(algorithm, shuffled, log_probs) == pytest.approx(_loss(algorithm, groups, log_probs), rel=1e-5, abs=1e-6)

    check()


def test_an_absence_never_changes_the_credit_of_others(make_group: MakeGroup) -> None:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=6), st.data())
    def check(rewards: list[float], data: st.DataObject) -> None:
        whole = make_group("g", rewards)
        gone = data.draw(st.integers(0, len(rewards) - 1))
        scores = tuple(Scores(None, "DEADLINE") if k == gone else s for k, s in enumerate(whole.scores))
        holed = replace(whole, scores=scores)
        values = torch.linspace(-1, 1, sum(r.length for r in whole.rollouts))
        full = token_credit([whole], values, kl_coef=0.05, whiten_advantages=False).ledger_rows()
        part = token_credit([holed], values, kl_coef=0.05, whiten_advantages=False).ledger_rows()
        assert part.pop(f"g/{gone}")["credit"] is None
        full.pop(f"g/{gone}")
        assert part == full
        algorithm = OnlineDPO(OnlineDPOConfig())
        pairs = algorithm.credit([holed], np.random.default_rng(0))
        remaining = algorithm.credit([_permuted(whole, [k for k in range(len(rewards)) if k != gone])], np.random.default_rng(0))
        assert torch.equal(pairs.p_first, remaining.p_first)
        assert torch.equal(pairs.weight, remaining.weight)
        assert pairs.reference_log_probs is not None
        assert remaining.reference_log_probs is not None
        assert torch.equal(pairs.reference_log_probs, remaining.reference_log_probs)

    check()
