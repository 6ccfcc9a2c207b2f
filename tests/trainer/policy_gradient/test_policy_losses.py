"""Every policy-gradient loss against a hand formula in numpy float64, and its gradient against finite differences."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rewardmesh.trainer.losses import (
    KL_ESTIMATORS,
    capped_importance_loss,
    clipped_policy_loss,
    clipped_sequence_loss,
    clipped_value_loss,
    joint_pairwise_loss,
    macro_index,
    macro_sum,
    reinforce_loss,
    separate_pairwise_loss,
    squared_advantage_loss,
)

Floats = npt.NDArray[np.float64]
N = 64


def _double(values: Floats, *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def _inputs(seed: int, spread: float = 0.4) -> tuple[Floats, Floats, Floats]:
    """(new, old, advantages), ratios on both sides of the usual clips and never within 1e-4 of one, where there is no derivative."""
    rng = np.random.default_rng(seed)
    old, advantages = -rng.exponential(size=N), rng.normal(size=N)
    shift = rng.normal(scale=spread, size=N)
    edges = np.log([0.8, 1.2, 1.28, 3.0])
    close = np.abs(shift[:, None] - edges[None, :]).min(axis=1) < 1e-4
    return old + np.where(close, shift + 1e-2, shift), old, advantages


def _gradients_agree(function: Callable[[Tensor], Tensor], at: Floats) -> None:
    assert torch.autograd.gradcheck(function, (_double(at, grad=True),), eps=1e-7, atol=1e-6, rtol=1e-6)


def test_clip_higher_bounds_each_side_by_its_own() -> None:
    new, old, advantages = _inputs(0)
    ratio = np.exp(new - old)
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.28) * advantages)
    value = clipped_policy_loss(_double(new), _double(old), _double(advantages), 0.2, clip_high=0.28)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12)
    _gradients_agree(lambda x: clipped_policy_loss(x, _double(old), _double(advantages), 0.2, clip_high=0.28), new)


def test_dual_clip_gradient() -> None:
    new, old, advantages = _inputs(1, spread=1.5)
    _gradients_agree(lambda x: clipped_policy_loss(x, _double(old), _double(advantages), 0.2, 3.0), new)


def test_value_loss_gradient() -> None:
    new, old, returns = _inputs(2)
    _gradients_agree(lambda x: clipped_value_loss(x, _double(old), _double(returns), 0.3), new)


def test_sequence_ratio_loss_is_the_clipped_loss_of_the_sequence() -> None:
    new, old, advantages = _inputs(3)
    log_ratio = new - old
    ratio = np.exp(log_ratio)
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 1 - 3e-4, 1 + 4e-4) * advantages)
    value = clipped_sequence_loss(_double(log_ratio), _double(advantages), 3e-4, clip_high=4e-4)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12)
    _gradients_agree(lambda x: clipped_sequence_loss(x, _double(advantages), 0.2), log_ratio)


def test_reinforce_loss() -> None:
    new, _, advantages = _inputs(4)
    np.testing.assert_allclose(reinforce_loss(_double(new), _double(advantages)).numpy(), -advantages * new, rtol=1e-12)
    _gradients_agree(lambda x: reinforce_loss(x, _double(advantages)), new)


def test_cispo_caps_the_weight_and_keeps_every_gradient() -> None:
    new, old, advantages = _inputs(5, spread=1.5)
    weight = np.minimum(np.exp(new - old), 2.0)
    log_probs = _double(new, grad=True)
    value = capped_importance_loss(log_probs, _double(old), _double(advantages), 2.0)
    np.testing.assert_allclose(value.detach().numpy(), -weight * advantages * new, rtol=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), log_probs)
    np.testing.assert_allclose(gradient.numpy(), -weight * advantages, rtol=1e-12)  # the weight is a constant
    assert (gradient != 0).all()
    assert (weight == 2.0).any()
    frozen = _double(weight * advantages)
    _gradients_agree(lambda x: reinforce_loss(x, frozen), new)  # ... and that is the derivative with the weight held


def test_apa_regresses_the_log_ratio_on_the_advantage() -> None:
    new, reference, advantages = _inputs(6)
    value = squared_advantage_loss(_double(new), _double(reference), _double(advantages), 0.5)
    np.testing.assert_allclose(value.numpy(), (new - reference - 2 * advantages) ** 2, rtol=1e-12)
    at_target = squared_advantage_loss(_double(reference + 2 * advantages), _double(reference), _double(advantages), 0.5)
    assert float(at_target.max()) < 1e-20
    _gradients_agree(lambda x: squared_advantage_loss(x, _double(reference), _double(advantages), 0.5), new)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_estimator_gradients(name: str) -> None:
    new, reference, _ = _inputs(7)
    estimate = KL_ESTIMATORS[name]  # type: ignore[index]
    difference = new - reference
    formula = {"k1": difference, "k2": difference**2 / 2, "k3": np.exp(-difference) - 1 + difference}[name]
    np.testing.assert_allclose(estimate(_double(new), _double(reference)).numpy(), formula, rtol=1e-9, atol=1e-12)
    _gradients_agree(lambda x: estimate(x, _double(reference)), new)


def _pairs(seed: int) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=0.3, size=N), rng.normal(scale=0.3, size=N), rng.normal(size=N)


def test_p3o_separate_clip_matches_the_formula() -> None:
    first, second, difference = _pairs(8)
    ratio_1, ratio_2 = np.exp(first), np.exp(second)
    expected = np.zeros(N)
    for sign, own, other in ((1, ratio_1, ratio_2), (-1, ratio_2, ratio_1)):
        coefficient = sign * difference * other
        expected -= np.minimum(coefficient * own, coefficient * np.clip(own, 0.8, 1.2)) / 2
    value = separate_pairwise_loss(_double(first), _double(second), _double(difference), 0.2)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=1e-15)


def test_p3o_joint_clip_matches_the_formula() -> None:
    first, second, difference = _pairs(9)
    coefficient, together = difference * np.exp(first + second), first - second
    expected = -np.minimum(coefficient * together, coefficient * np.clip(together, -0.2, 0.2)) / 2
    value = joint_pairwise_loss(_double(first), _double(second), _double(difference), 0.2)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [separate_pairwise_loss, joint_pairwise_loss])
def test_p3o_gradient_is_the_weighted_pairwise_policy_gradient_inside_the_clip(loss: Callable[..., Tensor]) -> None:
    """And finite differences agree once the importance weights, which the loss holds constant, are held constant too."""
    first, second, difference = (part * 0.1 for part in _pairs(10))
    difference = difference * 10
    a, b = _double(first, grad=True), _double(second, grad=True)
    gradient = torch.autograd.grad(loss(a, b, _double(difference), 5.0).sum(), (a, b))
    weight = np.exp(first + second) * difference / 2
    np.testing.assert_allclose(gradient[0].numpy(), -weight, rtol=1e-10)
    np.testing.assert_allclose(gradient[1].numpy(), weight, rtol=1e-10)
    step = 1e-6
    held = _double(difference * np.exp(first + second))

    def surrogate(x: Tensor) -> Tensor:
        return -held * (x - b.detach()) / 2

    numeric = (surrogate(a.detach() + step) - surrogate(a.detach() - step)) / (2 * step)
    np.testing.assert_allclose(gradient[0].numpy(), numeric.numpy(), rtol=1e-6)


@pytest.mark.parametrize("loss", [separate_pairwise_loss, joint_pairwise_loss])
def test_p3o_does_not_care_which_is_first_nor_about_equivalent_rewards(loss: Callable[..., Tensor]) -> None:
    first, second, difference = map(_double, _pairs(11))
    torch.testing.assert_close(loss(first, second, difference, 0.2), loss(second, first, -difference, 0.2), rtol=1e-12, atol=1e-12)
    rewards = _double(np.arange(N) / 10)
    moved = (rewards + difference + 7) - (rewards + 7)
    torch.testing.assert_close(loss(first, second, moved, 0.2), loss(first, second, difference, 0.2), rtol=1e-9, atol=1e-9)


def test_macro_sums_follow_the_starts() -> None:
    starts = torch.tensor([True, False, True, True, False, False])
    values = _double(np.arange(1.0, 7.0), grad=True)
    assert macro_index(starts).tolist() == [0, 0, 1, 2, 2, 2]
    assert macro_sum(values, starts).tolist() == [3, 3, 15]
    _gradients_agree(lambda x: macro_sum(x, starts).square(), np.arange(1.0, 7.0))


LOG_RATIO = st.floats(-3, 3)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LOG_RATIO, st.floats(-5, 5))
def test_clipping_only_ever_raises_the_loss(log_ratio: float, advantage: float) -> None:
    """PPO takes the worse of two; the dual clip bounds that from above where the advantage is negative, and only there."""
    new, old, a = _double(np.array([log_ratio])), torch.zeros(1, dtype=torch.float64), _double(np.array([advantage]))
    plain = -(new - old).exp() * a
    clipped = clipped_policy_loss(new, old, a, 0.2)
    assert float(clipped) >= float(plain) - 1e-12
    dual = clipped_policy_loss(new, old, a, 0.2, 3.0)
    assert float(dual) <= float(clipped) + 1e-12
    if advantage >= 0:
        assert torch.equal(dual, clipped)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: clipped_sequence_loss(x, torch.tensor([-1.0]), 0.2),
        lambda x: capped_importance_loss(x, torch.zeros(1), torch.tensor([-1.0]), 5.0),
        lambda x: separate_pairwise_loss(x, x, torch.tensor([-1.0]), 0.2),
        lambda x: joint_pairwise_loss(x, -x, torch.tensor([-1.0]), 0.2),
    ],
)
def test_one_broken_completion_stays_finite(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.isfinite(loss(torch.tensor([500.0]))).all()
