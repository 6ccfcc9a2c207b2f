"""Each loss against a hand formula in numpy float64, its gradient against finite differences, GAE against its definition."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rewardmesh.trainer.losses import (
    AdaptiveKL,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    hinge_preference_loss,
    identity_preference_loss,
    k1,
    k2,
    k3,
    sigmoid_preference_loss,
    whiten,
)

Floats = npt.NDArray[np.float64]
BETA = 0.3


def _log_sigmoid(x: Floats) -> Floats:
    return -np.logaddexp(0, -x)


def _dpo(h: Floats, p: Floats) -> Floats:
    return -p * _log_sigmoid(BETA * h) - (1 - p) * _log_sigmoid(-BETA * h)


def _ipo(h: Floats, p: Floats) -> Floats:
    return p * (h - 1 / (2 * BETA)) ** 2 + (1 - p) * (h + 1 / (2 * BETA)) ** 2


def _hinge(h: Floats, p: Floats) -> Floats:
    return p * np.maximum(0, 1 - BETA * h) + (1 - p) * np.maximum(0, 1 + BETA * h)


PREFERENCE_LOSSES = [(sigmoid_preference_loss, _dpo), (identity_preference_loss, _ipo), (hinge_preference_loss, _hinge)]


def _double(values: Floats, *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def _numeric_gradient(function: Callable[[Floats], Floats], at: Floats, step: float = 1e-6) -> Floats:
    """Of a function that acts on each entry alone."""
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize(("loss", "formula"), PREFERENCE_LOSSES)
def test_preference_losses_match_the_formula_and_its_slope(
    loss: Callable[[Tensor, Tensor, float], Tensor], formula: Callable[[Floats, Floats], Floats]
) -> None:
    rng = np.random.default_rng(0)
    h, p = rng.normal(scale=5, size=64), rng.uniform(size=64)
    p[:3] = [0, 0.5, 1]
    margin = _double(h, grad=True)
    value = loss(margin, _double(p), BETA)
    value.sum().backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(value.detach().numpy(), formula(h, p), rtol=1e-12)
    assert margin.grad is not None
    np.testing.assert_allclose(margin.grad.numpy(), _numeric_gradient(lambda x: formula(x, p), h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("loss", "formula"), PREFERENCE_LOSSES)
def test_swapping_a_pair_changes_nothing(loss: Callable[[Tensor, Tensor, float], Tensor], formula: object) -> None:
    h, p = _double(np.linspace(-4, 4, 9)), _double(np.linspace(0, 1, 9))
    assert torch.equal(loss(h, p, BETA), loss(-h, 1 - p, BETA))


def test_a_tie_pulls_the_margin_to_zero() -> None:
    margin = _double(np.array([0.0, 2.0, -2.0]), grad=True)
    sigmoid_preference_loss(margin, torch.full((3,), 0.5, dtype=torch.float64), BETA).sum().backward()  # type: ignore[no-untyped-call]
    assert margin.grad is not None
    assert margin.grad[0] == 0
    assert margin.grad[1] > 0
    assert margin.grad[2] < 0


def test_sigmoid_loss_stays_finite_far_out() -> None:
    value = sigmoid_preference_loss(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]), 1.0)
    assert torch.isfinite(value).all()


def _policy(log_probs: Floats, old: Floats, advantages: Floats, dual_clip: float | None) -> Floats:
    ratio = np.exp(log_probs - old)
    gain = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    if dual_clip is not None:
        gain = np.where(advantages < 0, np.maximum(gain, dual_clip * advantages), gain)
    return -gain


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_clipped_policy_loss_matches_the_formula_and_its_slope(dual_clip: float | None) -> None:
    rng = np.random.default_rng(1)
    old, advantages = -rng.exponential(size=200), rng.normal(size=200)
    new = old + rng.normal(scale=0.8, size=200)
    log_probs = _double(new, grad=True)
    value = clipped_policy_loss(log_probs, _double(old), _double(advantages), 0.2, dual_clip)
    value.sum().backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(value.detach().numpy(), _policy(new, old, advantages, dual_clip), rtol=1e-12)
    assert log_probs.grad is not None
    slope = _numeric_gradient(lambda x: _policy(x, old, advantages, dual_clip), new)
    np.testing.assert_allclose(log_probs.grad.numpy(), slope, rtol=1e-5, atol=1e-7)


def test_one_broken_token_does_not_make_the_ratio_infinite() -> None:
    assert torch.isfinite(clipped_policy_loss(torch.tensor([0.0]), torch.tensor([-500.0]), torch.tensor([-1.0]), 0.2)).all()


@pytest.mark.parametrize("clip", [None, 0.2])
def test_clipped_value_loss_matches_the_formula_and_its_slope(clip: float | None) -> None:
    rng = np.random.default_rng(2)
    old, returns = rng.normal(size=200), rng.normal(size=200)
    new = old + rng.normal(scale=0.5, size=200)

    def formula(v: Floats) -> Floats:
        kept = v if clip is None else old + np.clip(v - old, -clip, clip)
        return np.maximum((v - returns) ** 2, (kept - returns) ** 2) / 2

    values = _double(new, grad=True)
    value = clipped_value_loss(values, _double(old), _double(returns), clip)
    value.sum().backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(value.detach().numpy(), formula(new), rtol=1e-12)
    assert values.grad is not None
    np.testing.assert_allclose(values.grad.numpy(), _numeric_gradient(formula, new), rtol=1e-5, atol=1e-7)


def test_kl_estimators_have_the_right_expectation_and_sign() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    exact = (policy * (policy / reference).log()).sum()
    log_p, log_r = policy.log(), reference.log()
    torch.testing.assert_close((policy * k1(log_p, log_r)).sum(), exact)
    torch.testing.assert_close((policy * k3(log_p, log_r)).sum(), exact)
    torch.testing.assert_close(k2(log_p, log_r), (log_p - log_r) ** 2 / 2)
    assert (k3(log_p, log_r) >= 0).all()


def test_adaptive_kl_moves_towards_its_target() -> None:
    controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    controller.update(60.0, 100)  # far above: the error is clipped to .2
    assert controller.coefficient == pytest.approx(0.1 * 1.02)
    controller.update(5.4, 100)
    assert controller.coefficient == pytest.approx(0.102 * (1 - 0.1 * 0.1))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)])
def test_gae_matches_its_definition(gamma: float, lam: float) -> None:
    rng = np.random.default_rng(3)
    lengths = [1, 7, 3, 12, 1]
    offsets = np.cumsum([0, *lengths])
    rewards, values = rng.normal(size=offsets[-1]), rng.normal(size=offsets[-1])
    expected = np.zeros_like(rewards)
    for start, end in pairwise(offsets.tolist()):
        following = np.append(values[start + 1 : end], 0.0)
        delta = rewards[start:end] + gamma * following - values[start:end]
        for t in range(end - start):
            expected[start + t] = sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, end - start))
    advantages, returns = generalised_advantages(_double(rewards), _double(values), torch.from_numpy(offsets), gamma, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(returns.numpy(), expected + values, rtol=1e-10, atol=1e-12)


def test_whitening() -> None:
    white = whiten(_double(np.random.default_rng(4).normal(3, 5, size=50)))
    assert white.mean().item() == pytest.approx(0, abs=1e-12)
    assert white.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert whiten(torch.full((4,), 2.0)).tolist() == [0, 0, 0, 0]
    assert whiten(torch.zeros(0)).numel() == 0
