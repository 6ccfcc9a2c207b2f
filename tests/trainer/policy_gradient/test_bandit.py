"""Each algorithm on an 8-action bandit: its expected gradient is the one its maths says, and its fixed point is the known one.

One completion token per action. Groups of two are enumerated, all 64 of them, each with its probability under the policy as its weight:
the sum is the exact expectation of the update over what the policy would sample, through the real credit and the real loss.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from rewardmesh.trainer.algorithms import Algorithm, load_algorithm
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.samples import Group, Rollout, Scores

Floats = npt.NDArray[np.float64]
MakeRollout = Callable[..., Rollout]
K, BETA = 8, 0.5

_rng = np.random.default_rng(3)
REWARD: Floats = _rng.permutation(np.linspace(0.2, 1.4, K))
REFERENCE: Floats = _rng.dirichlet(np.full(K, 10.0))
POLICY: Floats = _rng.dirichlet(np.full(K, 5.0))
_ahead = (np.arange(K)[None, :] - np.arange(K)[:, None]) % K
_circle = np.where((_ahead > 0) & (_ahead < 4), _rng.uniform(1, 3, size=(K, K)), 0.0)
PREFERENCES: Floats = 1 / (1 + np.exp(-(_circle - _circle.T)))
K1: Floats = np.log(POLICY / REFERENCE)


def _pairs(make_rollout: MakeRollout, policy: Floats, *, greedy: int | None = None) -> list[Group]:
    """Every group of two actions, in order; with `greedy`, that action a third time as the greedy rollout."""
    groups = []
    for i in range(K):
        for j in range(K):
            actions = [i, j] if greedy is None else [i, j, greedy]
            id_ = f"{i}-{j}"
            rollouts = [make_rollout(f"{id_}/{n}/{a}", id_, [np.log(policy[a])]) for n, a in enumerate(actions)]
            if greedy is not None:
                rollouts[2] = replace(rollouts[2], source="greedy")
            groups.append(
                Group(
                    id=id_,
                    rollouts=tuple(rollouts),
                    scores=tuple(Scores(float(REWARD[a])) for a in actions),
                    preferences=PREFERENCES[np.ix_(actions, actions)],
                    reference_log_probs=tuple(np.log(REFERENCE[[a]]).astype(np.float32) for a in actions),
                )
            )
    return groups


def _expected_gradient(algorithm: Algorithm, groups: list[Group], policy: Floats) -> Floats:
    """Gradient on the logits of the expected loss of a group of two, the mean of its two rollouts."""
    credit = algorithm.credit(groups, np.random.default_rng(0), torch.zeros(sum(len(g.rollouts) for g in groups)))
    assert isinstance(credit, TokenCredit)
    actions = torch.tensor([int(rollout.id.split("/")[2]) for rollout in credit.rollouts])
    probability = torch.tensor(policy)
    by_group = {group.id: float(policy[int(group.id.split("-")[0])] * policy[int(group.id.split("-")[1])]) for group in groups}
    weight = torch.tensor([by_group[rollout.group_id] for rollout in credit.rollouts], dtype=torch.float64)
    logits = probability.log().requires_grad_()
    weighted = replace(credit, weight=weight, mass=None, normaliser=2.0)
    loss = algorithm.loss(weighted, logits.log_softmax(0)[actions], torch.zeros(len(actions))).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    return np.asarray(gradient.numpy(), dtype=np.float64)


def _along(f: Floats) -> Floats:
    """Gradient of -sum_a pi_a f_a with f held constant."""
    return -POLICY * (f - POLICY @ f)


def _standardised() -> Floats:
    """Expected advantage of each action in a group of two under GRPO."""
    difference = REWARD[:, None] - REWARD[None, :]
    return np.asarray((difference / 2 / (np.abs(difference) / 2**0.5 + 1e-4)) @ POLICY, dtype=np.float64)


SHAPED: Floats = REWARD - BETA * K1
WINS: Floats = PREFERENCES @ POLICY - 0.5
CASES: list[tuple[str, dict[str, object], Floats]] = [
    ("rloo", {"kl_coef": BETA}, _along(SHAPED)),
    ("p3o", {"kl_coef": BETA}, _along(SHAPED)),
    ("p3o", {"kl_coef": BETA, "clipping": "separate"}, _along(SHAPED)),
    ("reinforce_plus_plus", {"kl_coef": BETA, "whitening": "none"}, _along(SHAPED)),
    ("reinforce_plus_plus_baseline", {"kl_coef": BETA, "whitening": "none"}, _along(REWARD / 2 - BETA * K1)),  # mean of two: half
    ("dr_grpo", {}, _along(REWARD / 2)),
    ("rloo", {"kl_coef": BETA, "kl_in": "loss", "kl_estimator": "k2"}, _along(SHAPED)),
    ("rloo", {"kl_coef": BETA, "kl_in": "loss", "kl_estimator": "k3"}, _along(REWARD) + BETA * (POLICY - REFERENCE)),
    ("rloo", {"kl_coef": BETA, "kl_in": "loss", "kl_estimator": "k1"}, _along(REWARD)),  # as if there were none
    ("grpo", {"kl_coef": BETA}, _along(_standardised()) + BETA * (POLICY - REFERENCE)),
    ("grpo", {"kl_coef": BETA, "kl_estimator": "k2"}, _along(_standardised() - BETA * K1)),
    ("dapo", {}, _along(_standardised())),
    ("gspo", {}, _along(_standardised())),
    ("cispo", {}, _along(_standardised())),
    ("pairwise_policy_gradient", {"kl_coef": BETA}, _along(WINS - BETA * K1)),
    ("ppo", {"kl_coef": BETA, "whiten_advantages": False}, _along(SHAPED)),
    ("ppo_max", {"kl_coef": BETA, "whiten_advantages": False, "normalise_rewards": False, "critic_warmup_steps": 0}, _along(SHAPED)),
    ("ma_ppo", {"kl_coef": BETA, "whiten_advantages": False}, _along(SHAPED)),
    ("apa", {"advantage_temperature": BETA, "whiten_advantages": False}, 2 * _along(REWARD / BETA - K1)),
]


@pytest.mark.parametrize(("name", "options", "expected"), CASES)
def test_expected_gradient_is_the_analytic_one(make_rollout: MakeRollout, name: str, options: dict[str, object], expected: Floats) -> None:
    gradient = _expected_gradient(load_algorithm(name, options), _pairs(make_rollout, POLICY), POLICY)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_remax_has_the_gradient_of_the_shaped_reward_whatever_is_greedy(make_rollout: MakeRollout) -> None:
    algorithm = load_algorithm("remax", {"kl_coef": BETA})
    for greedy in (int(REWARD.argmin()), int(REWARD.argmax())):
        gradient = _expected_gradient(algorithm, _pairs(make_rollout, POLICY, greedy=greedy), POLICY)
        np.testing.assert_allclose(gradient, _along(SHAPED), rtol=1e-4, atol=1e-7)


def test_whitening_keeps_the_direction(make_rollout: MakeRollout) -> None:
    """REINFORCE++ as it is: one affine map of all advantages scales the expected gradient."""
    gradient = _expected_gradient(load_algorithm("reinforce_plus_plus", {"kl_coef": BETA}), _pairs(make_rollout, POLICY), POLICY)
    expected = _along(SHAPED)
    cosine = gradient @ expected / np.linalg.norm(gradient) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-6)


def _gibbs() -> Floats:
    weights = REFERENCE * np.exp(REWARD / BETA)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _forward_kl_optimum() -> Floats:
    """beta pi_ref / (lambda - r), lambda such that it adds up to 1."""
    low, high = REWARD.max() + 1e-9, REWARD.max() + 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (BETA * REFERENCE / (middle - REWARD)).sum() > 1 else (low, middle)
    return np.asarray(BETA * REFERENCE / (low - REWARD), dtype=np.float64)


def _regularised_nash() -> Floats:
    """pi ~ pi_ref exp(P(. beats pi) / beta), by damped iteration."""
    policy = REFERENCE.copy()
    for _ in range(5000):
        target = REFERENCE * np.exp(PREFERENCES @ policy / BETA)
        policy = 0.9 * policy + 0.1 * target / target.sum()
    return policy


KL_IN_LOSS: dict[str, object] = {"kl_coef": BETA, "kl_in": "loss"}


@pytest.mark.parametrize(
    ("name", "options", "policy"),
    [
        ("rloo", {"kl_coef": BETA}, _gibbs()),
        ("rloo", {**KL_IN_LOSS, "kl_estimator": "k2"}, _gibbs()),
        ("rloo", {**KL_IN_LOSS, "kl_estimator": "k3"}, _forward_kl_optimum()),
        ("p3o", {"kl_coef": BETA}, _gibbs()),
        ("ppo", {"kl_coef": BETA, "whiten_advantages": False}, _gibbs()),
        ("apa", {"advantage_temperature": BETA, "whiten_advantages": False}, _gibbs()),
        ("pairwise_policy_gradient", {"kl_coef": BETA}, _regularised_nash()),
    ],
)
def test_expected_gradient_vanishes_at_the_known_fixed_point(
    make_rollout: MakeRollout, name: str, options: dict[str, object], policy: Floats
) -> None:
    algorithm = load_algorithm(name, options)
    assert np.abs(_expected_gradient(algorithm, _pairs(make_rollout, policy), policy)).max() < 1e-6
    assert np.abs(_expected_gradient(algorithm, _pairs(make_rollout, POLICY), POLICY)).max() > 1e-3


@pytest.mark.parametrize("policy", [_gibbs(), _forward_kl_optimum()])
def test_standardised_advantages_have_neither_fixed_point(make_rollout: MakeRollout, policy: Floats) -> None:
    for estimator in ("k2", "k3"):
        algorithm = load_algorithm("grpo", {"kl_coef": BETA, "kl_estimator": estimator})
        assert np.abs(_expected_gradient(algorithm, _pairs(make_rollout, policy), policy)).max() > 3e-3


def test_the_fixed_points_are_different_policies() -> None:
    assert np.abs(_gibbs() - _forward_kl_optimum()).sum() / 2 > 0.05
    assert np.abs(_regularised_nash() - REFERENCE).sum() / 2 > 0.03
