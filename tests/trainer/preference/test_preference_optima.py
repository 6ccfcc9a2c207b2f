"""Where the preference family converges on an 8-action bandit whose optimum is known, and on a tree of two tokens.

One completion token per action, so the policy is 8 logits. Every update is the exact expectation: the batch holds each action once, the
credit weights carry its probability under the current policy, and labels and win rates that depend on the policy are the exact ones;
the real credit and loss code runs. Distances are total variation.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rewardmesh.trainer.algorithms import load_algorithm
from rewardmesh.trainer.credit import PairCredit, SequenceCredit
from rewardmesh.trainer.losses.f_dpo import Divergence
from rewardmesh.trainer.samples import Group, Rollout, Scores

Floats = npt.NDArray[np.float64]
MakeRollout = Callable[..., Rollout]
ACTIONS, BETA, ALPHA = 8, 0.5, 0.4

_rng = np.random.default_rng(7)
REWARD: Floats = _rng.permutation(np.linspace(0.2, 1.4, ACTIONS))
REFERENCE: Floats = _rng.dirichlet(np.full(ACTIONS, 10.0))
# Better actions tend to win, and each tends to beat the three after it in a circle: no reward explains these preferences.
_ahead = (np.arange(ACTIONS)[None, :] - np.arange(ACTIONS)[:, None]) % ACTIONS
_circle = np.where((_ahead > 0) & (_ahead < 4), _rng.uniform(1, 3, size=(ACTIONS, ACTIONS)), 0.0)
PREFERENCES: Floats = 1 / (1 + np.exp(-(_circle - _circle.T) - (REWARD[:, None] - REWARD[None, :])))


def _distance(left: Floats, right: Floats) -> float:
    return float(np.abs(left - right).sum() / 2)


def _gibbs(reward: Floats, beta: float = BETA) -> Floats:
    weights = REFERENCE * np.exp(reward / beta)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _fixed_point(worth: Callable[[Floats], Floats]) -> Floats:
    """pi = pi_ref exp(worth(pi) / beta) / Z."""
    policy = REFERENCE.copy()
    for _ in range(5000):
        policy = 0.9 * policy + 0.1 * _gibbs(worth(policy))
    return policy


NASH = _fixed_point(lambda policy: PREFERENCES @ policy)


def _group(make_rollout: MakeRollout, policy: Floats) -> Group:
    return Group(
        id="g",
        rollouts=tuple(make_rollout(str(action), "g", [np.log(policy[action])]) for action in range(ACTIONS)),
        scores=tuple(Scores(float(reward)) for reward in REWARD),
        preferences=PREFERENCES,
        reference_log_probs=tuple(np.log(REFERENCE[action : action + 1]).astype(np.float32) for action in range(ACTIONS)),
    )


def _train(
    make_rollout: MakeRollout,
    name: str,
    options: Mapping[str, object] | None = None,
    *,
    steps: int = 800,
    lr: float = 0.05,
    worth: Callable[[Floats], Floats] | None = None,
    frozen: Floats | None = None,
) -> Floats:
    """The policy after `steps` from the reference.

    `worth` gives win rates under the current policy: the targets of single completions, or through Bradley-Terry the labels of pairs.
    `frozen`: the sampling policy and the weights stay at this one, as within one iteration of an iterative algorithm.
    """
    algorithm = load_algorithm(name, {"beta": BETA, **(options or {})})
    logits = torch.tensor(np.log(REFERENCE if frozen is None else frozen), requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        policy = logits.detach().softmax(0).numpy() if frozen is None else frozen
        credit = algorithm.credit([_group(make_rollout, policy)], np.random.default_rng(0))
        mass = torch.tensor(policy)
        rates = None if worth is None else torch.tensor(worth(policy))
        if isinstance(credit, PairCredit):
            labels = credit.p_first if rates is None else (rates[credit.first] - rates[credit.second]).sigmoid()
            credit = replace(credit, weight=mass[credit.first] * mass[credit.second], p_first=labels, normaliser=0.5)
        else:
            assert isinstance(credit, SequenceCredit)
            credit = replace(credit, weight=mass, targets=credit.targets if rates is None else rates, normaliser=1.0)
        optimiser.zero_grad()
        algorithm.loss(credit, logits.log_softmax(0)).loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return np.asarray(logits.detach().softmax(0).numpy(), dtype=np.float64)


def _wins(policy: Floats) -> Floats:
    return np.asarray(PREFERENCES @ policy)


def test_the_equilibrium_is_one_that_no_reward_gives() -> None:
    beats = PREFERENCES > 0.5
    assert np.trace(np.linalg.matrix_power(beats.astype(int), 3)) > 0  # some a beats b beats c beats a
    assert _distance(NASH, REFERENCE) > 0.05
    assert _distance(NASH, _gibbs(REWARD)) > 0.05


def _inverse_divergence(divergence: Divergence, x: Floats) -> Floats:
    """u with f'(u) = x, infinite where f' does not reach x."""
    with np.errstate(all="ignore"):
        if divergence == "reverse_kl":
            return np.exp(x)
        if divergence == "forward_kl":
            return np.where(x < 0, -1 / x, np.inf)
        if divergence == "jensen_shannon":
            return np.where(x < np.log(2), np.exp(x) / (2 - np.exp(x)), np.inf)
        return np.where(x < 1 / ALPHA, (1 - ALPHA * x) ** (-1 / ALPHA), np.inf)


def _divergence_optimum(divergence: Divergence) -> Floats:
    """pi_ref u with f'(u) = (r - lambda) / beta and lambda such that it sums to 1, by bisection."""
    low, high = -50.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        mass = float((REFERENCE * _inverse_divergence(divergence, (REWARD - middle) / BETA)).sum())
        low, high = (middle, high) if mass > 1 else (low, middle)
    return np.asarray(REFERENCE * _inverse_divergence(divergence, (REWARD - high) / BETA))


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jensen_shannon", "alpha"])
def test_f_dpo_reaches_the_optimum_of_its_divergence(make_rollout: MakeRollout, divergence: Divergence) -> None:
    optimum = _divergence_optimum(divergence)
    assert optimum.sum() == pytest.approx(1)
    policy = _train(make_rollout, "f_dpo", {"divergence": divergence, "alpha": ALPHA})
    assert _distance(policy, optimum) < 0.001
    if divergence != "reverse_kl":
        assert _distance(optimum, _gibbs(REWARD)) > 0.02


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [
        ("online_dpo", {}, 1.0),
        ("wpo", {}, 1.0),
        ("gpo", {"function": "savage"}, 1.0),
        ("gpo", {"function": "exponential"}, 0.5),  # p e^-x + (1 - p) e^x is least at x = log(p / (1 - p)) / 2
        ("optune", {"gap_scale": 1.0}, 2.0),  # the weights' odds, e^gap, multiply the labels'
    ],
)
def test_losses_that_are_least_at_the_log_odds_reach_a_gibbs_policy(
    make_rollout: MakeRollout, name: str, options: dict[str, object], scale: float
) -> None:
    assert _distance(_train(make_rollout, name, options), _gibbs(scale * REWARD)) < 0.001


def test_smoothed_labels_weaken_what_is_learnt(make_rollout: MakeRollout) -> None:
    """Smoothing is no scale on the reward, so that there is no Gibbs policy to expect; certain it is only nearer to the reference."""
    smoothed = _train(make_rollout, "online_dpo", {"label_smoothing": 0.2})
    assert _distance(smoothed, REFERENCE) < 0.8 * _distance(_gibbs(REWARD), REFERENCE)
    assert _distance(smoothed, REFERENCE) > 0.2 * _distance(_gibbs(REWARD), REFERENCE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ipo", {"label_source": "preferences"}),
        ("inpo", {"label_source": "preferences", "eta": 1.5}),
        ("inpo", {"label_source": "preferences", "eta": 0.5}),
        ("gpo", {"label_source": "preferences", "function": "squared", "beta": 2 * BETA}),
    ],
)
def test_squared_losses_on_pairs_reach_the_regularised_nash_policy(
    make_rollout: MakeRollout, name: str, options: dict[str, object]
) -> None:
    assert _distance(_train(make_rollout, name, options), NASH) < 0.001


@pytest.mark.parametrize(
    ("name", "options"), [("dno", {"anchor": "reference"}), ("sppo", {"anchor": "reference"}), ("nash_md", {}), ("spo", {})]
)
def test_win_rates_against_the_policy_lead_to_the_regularised_nash_policy(
    make_rollout: MakeRollout, name: str, options: dict[str, object]
) -> None:
    assert _distance(_train(make_rollout, name, options, worth=_wins), NASH) < 0.001


def test_nash_md_against_a_mixture_settles_where_the_mixture_leads_it(make_rollout: MakeRollout) -> None:
    """Half policy, half reference, geometrically: near the equilibrium of self-play, not at it."""

    def against_mixture(policy: Floats) -> Floats:
        mixture = np.sqrt(policy * REFERENCE)
        return np.asarray(PREFERENCES @ (mixture / mixture.sum()))

    policy = _train(make_rollout, "nash_md", worth=against_mixture)
    assert _distance(policy, _fixed_point(against_mixture)) < 0.001
    assert _distance(policy, NASH) < 0.05


@pytest.mark.parametrize("name", ["dno", "online_dpo"])
def test_one_iteration_of_dno_is_a_soft_policy_improvement(make_rollout: MakeRollout, name: str) -> None:
    """pi_t exp(r_t / beta) / Z from a pi_t that is not the reference; DPO on the same labels goes to pi_ref exp(r_t / beta) / Z."""
    previous = _rng.dirichlet(np.full(ACTIONS, 5.0))
    policy = _train(make_rollout, name, worth=_wins, frozen=previous)
    improved = previous * np.exp(_wins(previous) / BETA)
    assert _distance(previous, REFERENCE) > 0.1
    if name == "dno":
        assert _distance(policy, improved / improved.sum()) < 0.001
    else:
        assert _distance(policy, _gibbs(_wins(previous))) < 0.001


def test_one_iteration_of_inpo_is_a_step_of_mirror_descent(make_rollout: MakeRollout) -> None:
    """Transitive in win rates: pi ~ pi_ref^(beta / eta) pi_t^(1 - beta / eta) exp(P(. beats pi_t) / eta)."""
    eta = 1.25
    rates = np.linspace(0, 0.3, ACTIONS)[_rng.permutation(ACTIONS)]
    additive = 0.5 + rates[:, None] - rates[None, :]
    previous = _rng.dirichlet(np.full(ACTIONS, 5.0))
    algorithm = load_algorithm("inpo", {"beta": BETA, "eta": eta, "label_source": "preferences"})
    group = replace(_group(make_rollout, previous), preferences=additive)
    credit = algorithm.credit([group], np.random.default_rng(0))
    logits = torch.tensor(np.log(previous), requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for step in range(800):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 800)
        optimiser.zero_grad()
        algorithm.loss(credit, logits.log_softmax(0)).loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    expected = REFERENCE ** (BETA / eta) * previous ** (1 - BETA / eta) * np.exp(additive @ previous / eta)
    assert _distance(logits.detach().softmax(0).numpy(), expected / expected.sum()) < 0.001


def _tree_log_probs(first: Tensor, second: Tensor) -> Tensor:
    """Per token, Tensor[18]: sequences (a, b) of a tree with 3 first tokens and 3 second ones after each."""
    starts = first.log_softmax(0)[:, None].expand(3, 3)
    return torch.stack([starts, second.log_softmax(1)], dim=2).reshape(18)


@pytest.mark.parametrize("whole", [True, False])
def test_the_kl_of_whole_completions_is_unbiased_and_that_of_single_tokens_is_not(make_rollout: MakeRollout, whole: bool) -> None:
    """Nash-MD's loss on two tokens against a fixed opponent; the optimum is pi_ref exp(P / beta) / Z over the nine completions.

    After the first token 0 only one second token wins, and choosing it is a KL that the first token's gradient must see.
    """
    wins, beta = torch.tensor([0.0, 0.0, 1.0, 0.6, 0.6, 0.6, 0.4, 0.5, 0.5], dtype=torch.float64), 0.2
    reference = _tree_log_probs(torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64))
    group = Group(
        id="g",
        rollouts=tuple(make_rollout(str(k), "g", [0.0, 0.0]) for k in range(9)),
        scores=tuple(Scores(0.0) for _ in range(9)),
        reference_log_probs=tuple(reference.reshape(9, 2).numpy().astype(np.float32)),
    )
    algorithm = load_algorithm("nash_md", {"beta": beta})
    credit = algorithm.credit([group], np.random.default_rng(0))
    assert isinstance(credit, SequenceCredit)
    logits = [torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)]
    optimiser = torch.optim.Adam(logits, lr=0.05)
    for step in range(1000):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 1000)
        log_probs = _tree_log_probs(*logits)
        policy = log_probs.detach().reshape(9, 2).sum(dim=1).exp()
        optimiser.zero_grad()
        if whole:
            loss = algorithm.loss(replace(credit, weight=policy, targets=wins, normaliser=1.0), log_probs).loss
        else:
            pairs = log_probs.reshape(9, 2)
            single = ((log_probs - reference).detach() * log_probs).reshape(9, 2).sum(dim=1)
            loss = (policy * (beta * single - (wins - 0.5) * pairs.sum(dim=1))).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    policy = _tree_log_probs(*logits).detach().reshape(9, 2).sum(dim=1).exp()
    optimum = (reference.reshape(9, 2).sum(dim=1) + wins / beta).softmax(0)
    distance = _distance(policy.numpy(), optimum.numpy())
    assert distance < 0.001 if whole else distance > 0.15
