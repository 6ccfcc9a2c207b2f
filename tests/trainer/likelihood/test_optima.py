"""Where the weighted likelihood algorithms go on an 8-action bandit on which each step's optimum is known in closed form.

One completion token per action, so the policy is 8 logits. Distances are total variation.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rewardmesh.trainer.algorithms._likelihood import WeightedLikelihood
from rewardmesh.trainer.algorithms.bond import BOND, BONDConfig
from rewardmesh.trainer.algorithms.raft import RAFT, RAFTConfig
from rewardmesh.trainer.algorithms.rwr import RewardWeightedRegression, RWRConfig
from rewardmesh.trainer.algorithms.superhf import SuperHF, SuperHFConfig
from rewardmesh.trainer.credit.best_of_n import best_of_n_log_ratio, jeffreys_weights
from rewardmesh.trainer.credit.weighted import WeightedCredit
from rewardmesh.trainer.losses import weighted_likelihood_loss
from rewardmesh.trainer.samples import Group, Rollout, Scores

MakeRollout = Callable[..., Rollout]
Floats = npt.NDArray[np.float64]
ACTIONS = 8
_rng = np.random.default_rng(7)
REWARD: Floats = _rng.permutation(np.round(4 * np.linspace(0.2, 1.4, ACTIONS)) / 4)  # some actions tie
REFERENCE: Floats = _rng.dirichlet(np.full(ACTIONS, 10.0))


def _distance(left: Floats, right: Floats) -> float:
    return float(np.abs(left - right).sum() / 2)


def _best_of_n(policy: Floats, n: int) -> Floats:
    return policy * np.exp(best_of_n_log_ratio(policy, REWARD, n))


def _group(make_rollout: MakeRollout, actions: Floats | list[int], policy: Floats) -> Group:
    chosen = [int(action) for action in actions]
    return Group(
        id="g",
        rollouts=tuple(make_rollout(f"{place}:{action}", "g", [np.log(policy[action])]) for place, action in enumerate(chosen)),
        scores=tuple(Scores(float(REWARD[action])) for action in chosen),
        reference_log_probs=tuple(np.log(REFERENCE[action : action + 1]).astype(np.float32) for action in chosen),
    )


def _log_probs(logits: Tensor, credit: WeightedCredit) -> Tensor:
    return logits.log_softmax(0)[[int(rollout.id.split(":")[1]) for rollout in credit.rollouts]]


def _minimum(algorithm: WeightedLikelihood, credit: WeightedCredit) -> Floats:
    """The policy at which the loss of a fixed credit is least."""
    logits = torch.zeros(ACTIONS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = algorithm.loss(credit, _log_probs(logits, credit)).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call, unused-ignore]
    return logits.detach().softmax(0).numpy()


def test_each_step_of_reward_weighted_regression_multiplies_by_the_exponential_of_the_reward(make_rollout: MakeRollout) -> None:
    """Exactly pi_k exp(r / beta) / Z, again and again: after k steps pi_ref exp(k r / beta) / Z."""
    beta = 0.7
    algorithm = RewardWeightedRegression(RWRConfig(beta=beta))
    policy = REFERENCE
    for step in range(1, 5):
        credit = algorithm.credit([_group(make_rollout, list(range(ACTIONS)), policy)], _rng)
        exact = replace(credit, weight=credit.weight * torch.tensor(policy).float())
        exact = replace(exact, mass=exact.weight, normaliser=float(exact.weight.sum()))
        policy = _minimum(algorithm, exact)
        expected = REFERENCE * np.exp(step * REWARD / beta)
        assert _distance(policy, expected / expected.sum()) < 1e-5


@pytest.mark.parametrize("n", [2, 4])
def test_raft_on_samples_is_the_best_of_n_of_who_sampled_them(make_rollout: MakeRollout, n: int) -> None:
    """The minimum of the loss over 2000 groups of n, and over groups of 2n whose subsets of n are averaged: both within the noise."""
    rng, target = np.random.default_rng(n), _best_of_n(REFERENCE, n)
    distances = []
    for size, config in ((n, RAFTConfig()), (2 * n, RAFTConfig(best_of=n))):
        groups = []
        for place in range(2000):
            group = _group(make_rollout, rng.choice(ACTIONS, size=size, p=REFERENCE).tolist(), REFERENCE)
            rollouts = tuple(replace(rollout, id=f"{place}:{rollout.id}", group_id=str(place)) for rollout in group.rollouts)
            groups.append(replace(group, id=str(place), rollouts=rollouts))
        credit = RAFT(config).credit(groups, rng)
        counts = np.zeros(ACTIONS)
        np.add.at(counts, [int(rollout.id.split(":")[2]) for rollout in credit.rollouts], credit.weight.numpy())
        distances.append(_distance(counts / counts.sum(), target))
    assert _distance(target, REFERENCE) > 0.15
    assert max(distances) < 0.03


def _train_on_jeffreys(anchor: Callable[[Floats], Floats], n: int, forward_share: float, steps: int) -> Floats:
    """Exact expectations: every action once, its probability the weight."""
    logits = torch.tensor(np.log(REFERENCE), requires_grad=True)
    for _ in range(steps):
        policy = logits.detach().softmax(0).numpy()
        weights = jeffreys_weights(REWARD, np.log(policy), np.log(anchor(policy)), n=n, forward_share=forward_share, probabilities=policy)
        losses = torch.tensor(policy) * weighted_likelihood_loss(logits.log_softmax(0), torch.tensor(weights))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        with torch.no_grad():
            logits -= gradient
    return logits.detach().softmax(0).numpy()


@pytest.mark.parametrize("forward_share", [0.0, 0.5, 1.0])
def test_bond_reaches_the_best_of_n_of_its_anchor(forward_share: float) -> None:
    policy = _train_on_jeffreys(lambda _: REFERENCE, 4, forward_share, 1500)
    assert _distance(policy, _best_of_n(REFERENCE, 4)) < 1e-3


def test_bond_with_a_moving_anchor_climbs_towards_the_best() -> None:
    """Best of 2 of best of 2 of ...: what ties for the best keeps its proportions, the rest dies out."""
    policy = _train_on_jeffreys(lambda current: current, 2, 0.5, 300)
    best = np.where(REWARD.max() == REWARD, REFERENCE, 0)
    assert _distance(policy, best / best.sum()) < 0.02


def test_bond_reaches_it_from_samples_through_its_credit(make_rollout: MakeRollout) -> None:
    """Groups of 64 sampled from the policy of the step, the reference as anchor: the estimates are good enough."""
    algorithm, rng = BOND(BONDConfig(n=3, anchor="reference")), np.random.default_rng(11)
    logits = torch.tensor(np.log(REFERENCE), requires_grad=True)
    averaged = np.zeros(ACTIONS)
    steps, last = 500, 200
    for step in range(steps):
        policy = logits.detach().softmax(0).numpy()
        credit = algorithm.credit([_group(make_rollout, rng.choice(ACTIONS, size=64, p=policy).tolist(), policy)], rng)
        (gradient,) = torch.autograd.grad(algorithm.loss(credit, _log_probs(logits, credit)).loss, logits)
        with torch.no_grad():
            logits -= 0.3 * gradient
        if step >= steps - last:
            averaged += policy / last
    assert _distance(averaged, _best_of_n(REFERENCE, 3)) < 0.03
    assert _distance(_best_of_n(REFERENCE, 3), REFERENCE) > 0.2


def test_superhf_stays_between_reference_and_best_of_n(make_rollout: MakeRollout) -> None:
    """At the fixed point, best-of-n of itself pulls as hard as the reference: pi_n - pi + kl_coef (pi_ref - pi) = 0."""
    algorithm, rng, n, coefficient = SuperHF(SuperHFConfig(kl_coef=0.5)), np.random.default_rng(5), 4, 0.5
    fixed = REFERENCE.copy()
    for _ in range(3000):
        fixed += 0.1 * (_best_of_n(fixed, n) - fixed + coefficient * (REFERENCE - fixed))
        fixed /= fixed.sum()
    logits = torch.tensor(np.log(REFERENCE), requires_grad=True)
    averaged = np.zeros(ACTIONS)
    steps, last = 500, 250
    for step in range(steps):
        policy = logits.detach().softmax(0).numpy()
        groups = []
        for place in range(16):
            group = _group(make_rollout, rng.choice(ACTIONS, size=n, p=policy).tolist(), policy)
            rollouts = tuple(replace(rollout, id=f"{place}-{rollout.id}", group_id=str(place)) for rollout in group.rollouts)
            groups.append(replace(group, id=str(place), rollouts=rollouts))
        credit = algorithm.credit(groups, rng)
        (gradient,) = torch.autograd.grad(algorithm.loss(credit, _log_probs(logits, credit)).loss, logits)
        with torch.no_grad():
            logits -= 0.5 * gradient
        if step >= steps - last:
            averaged += policy / last
    assert _distance(fixed, REFERENCE) > 0.1
    assert fixed.max() < 0.9
    assert _distance(averaged, fixed) < 0.04
