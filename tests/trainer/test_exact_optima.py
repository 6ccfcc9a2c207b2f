"""Where each algorithm converges on an 8-action bandit whose optimum is known: the test that it optimises what it says.

One completion token per action, so the policy is 8 logits. Every update is the exact expectation: the batch holds each action once and
the credit weights carry its probability; nothing is sampled, and the real credit and loss code runs. Distances are total variation.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rewardmesh.trainer.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.samples import Group, Rollout, Scores

Floats = npt.NDArray[np.float64]
MakeRollout = Callable[..., Rollout]
ACTIONS, BETA = 8, 0.5

_rng = np.random.default_rng(7)
# Positive and close together: the Gibbs policy stays spread out (a collapse is then far from it), and 0 is worse than any reward.
REWARD: Floats = _rng.permutation(np.linspace(0.2, 1.4, ACTIONS))
REFERENCE: Floats = _rng.dirichlet(np.full(ACTIONS, 10.0))
# Better actions tend to win, and each tends to beat the three after it in a circle: no reward explains these preferences.
_ahead = (np.arange(ACTIONS)[None, :] - np.arange(ACTIONS)[:, None]) % ACTIONS
_circle = np.where((_ahead > 0) & (_ahead < 4), _rng.uniform(1, 3, size=(ACTIONS, ACTIONS)), 0.0)
PREFERENCES: Floats = 1 / (1 + np.exp(-(_circle - _circle.T) - (REWARD[:, None] - REWARD[None, :])))
# Absent with an action-dependent probability: the better the action, the likelier; 49% under the reference.
_logit = 3 * (REWARD - REWARD.mean())
FAILURE: Floats = 1 / (1 + np.exp(-_logit))
FAILURE = FAILURE * 0.49 / float(REFERENCE @ FAILURE)


def _distance(left: Floats, right: Floats) -> float:
    return float(np.abs(left - right).sum() / 2)


def _gibbs(reward: Floats) -> Floats:
    weights = REFERENCE * np.exp(reward / BETA)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _regularised_nash() -> Floats:
    policy = REFERENCE.copy()
    for _ in range(5000):
        target = REFERENCE * np.exp(PREFERENCES @ policy / BETA)
        policy = 0.9 * policy + 0.1 * target / target.sum()
    return policy


def _probabilities(logits: Tensor) -> Floats:
    return logits.detach().softmax(0).numpy()


def _group(make_rollout: MakeRollout, policy: Floats, scores: tuple[Scores, ...], preferences: Floats | None = None) -> Group:
    return Group(
        id="g",
        rollouts=tuple(make_rollout(str(action), "g", [np.log(policy[action])]) for action in range(ACTIONS)),
        scores=scores,
        preferences=preferences,
        reference_log_probs=tuple(np.log(REFERENCE[action : action + 1]).astype(np.float32) for action in range(ACTIONS)),
    )


def _train_on_pairs(make_rollout: MakeRollout, config: OnlineDPOConfig, steps: int = 1200, lr: float = 0.05) -> Floats:
    """Online: pair (i, j) weighs pi_i pi_j under the current policy, without gradient through the weights."""
    algorithm = OnlineDPO(config)
    group = _group(make_rollout, REFERENCE, tuple(Scores(float(reward)) for reward in REWARD), PREFERENCES)
    credit = algorithm.credit([group], np.random.default_rng(0))
    logits = torch.tensor(np.log(REFERENCE), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        policy = logits.detach().softmax(0)
        weighted = replace(credit, weight=policy[credit.first] * policy[credit.second], normaliser=0.5)
        optimizer.zero_grad()
        algorithm.loss(weighted, logits.log_softmax(0)).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _probabilities(logits)


def _train_on_advantages(make_rollout: MakeRollout, present: Floats, scores: Floats, *, steps: int = 1500, lr: float = 0.05) -> Floats:
    """Action a has score scores[a] with probability present[a], else none. The critic is the mean return of what is present."""
    algorithm = PPO(PPOConfig(kl_coef=BETA, whiten_advantages=False, epochs=1))
    logits = torch.tensor(np.log(REFERENCE), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=lr)
    typed = tuple(Scores(float(score)) for score in scores)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        policy = _probabilities(logits)
        group = _group(make_rollout, policy, typed)
        weight = torch.tensor(policy * present).float()
        returns = scores - BETA * (np.log(policy) - np.log(REFERENCE))
        baseline = float((policy * present) @ returns / (policy @ present))
        credit = algorithm.credit([group], np.random.default_rng(0), torch.full((ACTIONS,), baseline))
        assert isinstance(credit, TokenCredit)
        weighted = replace(credit, weight=weight, normaliser=float(weight.sum()))
        optimizer.zero_grad()
        algorithm.loss(weighted, logits.log_softmax(0), torch.full((ACTIONS,), baseline)).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _probabilities(logits)


def test_online_dpo_with_soft_labels_reaches_the_gibbs_policy(make_rollout: MakeRollout) -> None:
    assert _distance(_train_on_pairs(make_rollout, OnlineDPOConfig(beta=BETA)), _gibbs(REWARD)) < 0.001


def test_online_dpo_with_hard_labels_collapses(make_rollout: MakeRollout) -> None:
    policy = _train_on_pairs(make_rollout, OnlineDPOConfig(beta=BETA, label="hard"), steps=1500, lr=0.2)
    assert _gibbs(REWARD).max() < 0.5  # else a collapsed policy could not be farther than .5 from it
    assert _distance(policy, _gibbs(REWARD)) > 0.5
    assert policy[REWARD.argmax()] > 0.95


def test_reward_temperature_scales_the_reward(make_rollout: MakeRollout) -> None:
    policy = _train_on_pairs(make_rollout, OnlineDPOConfig(beta=BETA, reward_temperature=2.0))
    assert _distance(policy, _gibbs(REWARD / 2)) < 0.001


def test_online_ipo_reaches_the_regularised_nash_policy(make_rollout: MakeRollout) -> None:
    """Preferences that no reward explains."""
    policy = _train_on_pairs(make_rollout, OnlineDPOConfig(beta=BETA, loss="ipo", label_source="preferences"))
    nash = _regularised_nash()
    beats = PREFERENCES > 0.5
    assert np.trace(np.linalg.matrix_power(beats.astype(int), 3)) > 0  # some a beats b beats c beats a
    assert _distance(nash, REFERENCE) > 0.05
    assert _distance(policy, nash) < 0.001


def test_ppo_with_kl_in_the_reward_reaches_the_gibbs_policy(make_rollout: MakeRollout) -> None:
    assert _distance(_train_on_advantages(make_rollout, np.ones(ACTIONS), REWARD), _gibbs(REWARD)) < 0.001


def test_absences_left_out_of_loss_and_baseline_do_no_harm(make_rollout: MakeRollout) -> None:
    assert float(REFERENCE @ FAILURE) == pytest.approx(0.49)
    assert FAILURE.max() < 1
    assert _distance(_train_on_advantages(make_rollout, 1 - FAILURE, REWARD), _gibbs(REWARD)) < 0.001


def test_absences_taken_for_zero_reach_another_policy(make_rollout: MakeRollout) -> None:
    """What this trainer never does: the optimum becomes that of (1 - f) r."""
    policy = _train_on_advantages(make_rollout, np.ones(ACTIONS), (1 - FAILURE) * REWARD)
    assert _distance(policy, _gibbs((1 - FAILURE) * REWARD)) < 0.001
    assert _distance(policy, _gibbs(REWARD)) > 0.2


def test_sampled_absences_reach_the_gibbs_policy_through_the_credit(make_rollout: MakeRollout) -> None:
    """The same with real absences in the groups, drawn per step: the credit itself must leave them out."""
    algorithm = PPO(PPOConfig(kl_coef=BETA, whiten_advantages=False, epochs=1))
    rng = np.random.default_rng(11)
    logits = torch.tensor(np.log(REFERENCE), requires_grad=True)
    steps, lr = 2000, 0.05
    for step in range(steps):
        policy = _probabilities(logits)
        scores = tuple(Scores(None, "DEADLINE") if rng.uniform() < f else Scores(float(r)) for f, r in zip(FAILURE, REWARD, strict=True))
        here = np.array([score.reward is not None for score in scores])
        if not here.any():
            continue
        returns = REWARD - BETA * (np.log(policy) - np.log(REFERENCE))
        baseline = torch.full((ACTIONS,), float(policy[here] @ returns[here] / policy[here].sum()))
        credit = algorithm.credit([_group(make_rollout, policy, scores)], rng, baseline)
        assert isinstance(credit, TokenCredit)
        kept = torch.tensor([int(rollout.id) for rollout in credit.rollouts])
        assert kept.tolist() == np.flatnonzero(here).tolist()
        weighted = replace(credit, weight=torch.tensor(policy).float()[kept], normaliser=1.0)
        (gradient,) = torch.autograd.grad(algorithm.loss(weighted, logits.log_softmax(0)[kept], baseline[kept]).loss, logits)
        with torch.no_grad():
            logits -= lr * 40 * (1 - step / steps) * gradient
    assert _distance(_probabilities(logits), _gibbs(REWARD)) < 0.02
