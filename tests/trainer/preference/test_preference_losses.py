"""Each preference loss against a formula written by hand in numpy float64, its gradient against finite differences, and its symmetries."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rewardmesh.trainer import losses
from rewardmesh.trainer.losses.alpha_po import alpha_reward
from rewardmesh.trainer.losses.f_dpo import Divergence, divergence_reward
from rewardmesh.trainer.losses.gpo import PreferenceFunction

Floats = npt.NDArray[np.float64]
Loss = Callable[..., Tensor]
BETA, GAMMA, ALPHA = 0.3, 0.7, 0.4
P = 40
_numbers = np.random.default_rng(2)
GAP: Floats = _numbers.normal(size=P)
REF: Floats = _numbers.normal(size=P)
OLD: Floats = _numbers.normal(size=P)
_GAP, _REF, _OLD = torch.tensor(GAP), torch.tensor(REF), torch.tensor(OLD)


def _ls(x: Floats) -> Floats:
    return -np.logaddexp(0, -x)


def _sig(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _both(f: Callable[[Floats], Floats]) -> Callable[[Floats, Floats], Floats]:
    return lambda h, p: p * f(h) + (1 - p) * f(-h)


def _dpo(h: Floats, p: Floats) -> Floats:
    return -p * np.log(_sig(BETA * h)) - (1 - p) * np.log(_sig(-BETA * h))


# name: (loss of tensors a, b[, p]; formula of the same in numpy). a and b are of the first and of the second completion.
PAIRED: dict[str, tuple[Loss, Callable[[Floats, Floats, Floats], Floats]]] = {
    "dpo": (lambda a, b, p: losses.sigmoid_preference_loss(a - b, p, BETA), lambda a, b, p: _dpo(a - b, p)),
    "ipo": (
        lambda a, b, p: losses.identity_preference_loss(a - b, p, BETA),
        lambda a, b, p: _both(lambda h: (h - 1 / (2 * BETA)) ** 2)(a - b, p),
    ),
    "hinge": (
        lambda a, b, p: losses.hinge_preference_loss(a - b, p, BETA),
        lambda a, b, p: _both(lambda h: np.maximum(0, 1 - BETA * h))(a - b, p),
    ),
    "simpo": (
        lambda a, b, p: losses.simple_preference_loss(a - b, p, BETA, GAMMA),
        lambda a, b, p: _both(lambda h: -np.log(_sig(BETA * h - GAMMA)))(a - b, p),
    ),
    "alpha_po": (
        lambda a, b, p: losses.alpha_preference_loss(a, b, p, BETA, GAMMA, ALPHA),
        lambda a, b, p: _both(lambda h: -_ls(BETA * h - GAMMA))((np.exp(-ALPHA * b) - np.exp(-ALPHA * a)) / ALPHA, p),
    ),
    "alpha_po_negative": (
        lambda a, b, p: losses.alpha_preference_loss(a, b, p, BETA, GAMMA, -ALPHA),
        lambda a, b, p: _both(lambda h: -_ls(BETA * h - GAMMA))((np.exp(ALPHA * a) - np.exp(ALPHA * b)) / ALPHA, p),
    ),
    "f_dpo_forward": (
        lambda a, b, p: losses.divergence_preference_loss(a, b, p, BETA, "forward_kl"),
        lambda a, b, p: _both(lambda h: -_ls(BETA * h))(np.exp(-b) - np.exp(-a), p),
    ),
    "f_dpo_js": (
        lambda a, b, p: losses.divergence_preference_loss(a, b, p, BETA, "jensen_shannon"),
        lambda a, b, p: _dpo(np.log(2 * np.exp(a) / (1 + np.exp(a))) - np.log(2 * np.exp(b) / (1 + np.exp(b))), p),
    ),
    "f_dpo_alpha": (
        lambda a, b, p: losses.divergence_preference_loss(a, b, p, BETA, "alpha", ALPHA),
        lambda a, b, p: _dpo((1 - np.exp(a) ** -ALPHA) / ALPHA - (1 - np.exp(b) ** -ALPHA) / ALPHA, p),
    ),
    "rpo": (
        lambda a, b, p: losses.likelihood_preference_loss(a - b, -a / 5, -b / 7, p, BETA, ALPHA),
        lambda a, b, p: _dpo(a - b, p) - ALPHA * (p * a / 5 + (1 - p) * b / 7),
    ),
    "optune": (
        lambda a, b, p: losses.gap_weighted_preference_loss(a - b, _GAP, p, BETA, 2.0),
        lambda a, b, p: -p * _sig(2 * GAP) * _ls(BETA * (a - b)) - (1 - p) * _sig(-2 * GAP) * _ls(BETA * (b - a)),
    ),
    "xpo": (
        lambda a, b, p: losses.exploratory_preference_loss(a - b, b, p, BETA, ALPHA),
        lambda a, b, p: _dpo(a - b, p) + ALPHA * b,
    ),
    "vpo": (
        lambda a, b, p: losses.value_incentivised_preference_loss(a - b, (1 - p) * a + p * b, p, BETA, ALPHA),
        lambda a, b, p: _dpo(a - b, p) + ALPHA * BETA * ((1 - p) * a + p * b),
    ),
    "vpo_pessimistic": (
        lambda a, b, p: losses.value_incentivised_preference_loss(a - b, p * a + (1 - p) * b, p, BETA, ALPHA, optimistic=False),
        lambda a, b, p: _dpo(a - b, p) - ALPHA * BETA * (p * a + (1 - p) * b),
    ),
    "inpo": (
        lambda a, b, p: losses.iterative_nash_loss(a - b, _REF, _OLD, p, 0.6, 0.2),
        lambda a, b, p: _both(lambda h: (h - 1 / 1.2) ** 2)(a - b - REF / 3 - 2 * OLD / 3, p),
    ),
    "tgdpo": (
        lambda a, b, p: losses.token_guided_preference_loss(1.2 * a, 0.8 * a, 0.9 * b, 1.1 * b, p, BETA),
        lambda a, b, p: -p * _ls(BETA * (1.2 * a - 1.1 * b)) - (1 - p) * _ls(BETA * (0.9 * b - 0.8 * a)),
    ),
}


def _gpo(function: PreferenceFunction, f: Callable[[Floats], Floats]) -> tuple[Loss, Callable[[Floats, Floats, Floats], Floats]]:
    def loss(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
        return losses.generalised_preference_loss(a - b, p, BETA, function)

    return loss, lambda a, b, p: _both(f)(BETA * (a - b), p)


PAIRED["gpo_logistic"] = _gpo("logistic", lambda x: np.log1p(np.exp(-x)))
PAIRED["gpo_hinge"] = _gpo("hinge", lambda x: np.maximum(0, 1 - x))
PAIRED["gpo_squared"] = _gpo("squared", lambda x: (1 - x) ** 2)
PAIRED["gpo_exponential"] = _gpo("exponential", lambda x: np.exp(-x))
PAIRED["gpo_truncated_quadratic"] = _gpo("truncated_quadratic", lambda x: np.maximum(0, 1 - x) ** 2)
PAIRED["gpo_savage"] = _gpo("savage", lambda x: 1 / (1 + np.exp(x)) ** 2)
# The weights, and which side is the reference's, are given per pair: swapping a pair is not swapping those.
SYMMETRIC = sorted(set(PAIRED) - {"optune", "xpo", "inpo", "rpo", "tgdpo"})


def _inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=P)
    p[:3] = [0, 0.5, 1]
    a, b = (torch.tensor(rng.normal(scale=2, size=P), requires_grad=True) for _ in range(2))
    return a, b, torch.tensor(p)


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_pair_losses_match_the_formula_and_their_slope(name: str) -> None:
    loss, formula = PAIRED[name]
    a, b, p = _inputs()
    value = loss(a, b, p)
    assert value.shape == (P,)
    np.testing.assert_allclose(value.detach().numpy(), formula(a.detach().numpy(), b.detach().numpy(), p.numpy()), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, p), (a, b))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_swapping_a_pair_changes_no_loss(name: str) -> None:
    loss, _ = PAIRED[name]
    a, b, p = _inputs(1)
    torch.testing.assert_close(loss(a, b, p), loss(b, a, 1 - p), rtol=1e-12, atol=1e-12)


def test_swapping_a_pair_with_what_belongs_to_it_changes_nothing() -> None:
    a, b, p = _inputs(1)
    h, q = a - b, 1 - p
    for one, other in [
        (losses.gap_weighted_preference_loss(h, _GAP, p, BETA, 2.0), losses.gap_weighted_preference_loss(-h, -_GAP, q, BETA, 2.0)),
        (losses.iterative_nash_loss(h, _REF, _OLD, p, 0.6, 0.2), losses.iterative_nash_loss(-h, -_REF, -_OLD, q, 0.6, 0.2)),
        (losses.likelihood_preference_loss(h, -a, -b, p, BETA, 1.0), losses.likelihood_preference_loss(-h, -b, -a, q, BETA, 1.0)),
        (
            losses.token_guided_preference_loss(1.2 * a, 0.8 * a, 0.9 * b, 1.1 * b, p, BETA),
            losses.token_guided_preference_loss(0.9 * b, 1.1 * b, 1.2 * a, 0.8 * a, q, BETA),
        ),
        (
            losses.policy_weighted_preference_loss(h, -(a**2), -(b**2), p, BETA),
            losses.policy_weighted_preference_loss(-h, -(b**2), -(a**2), q, BETA),
        ),
        (losses.semi_policy_preference_loss(a, b, p, BETA), losses.semi_policy_preference_loss(b, a, q, BETA)),
    ]:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "f_dpo_js", "f_dpo_alpha", "f_dpo_forward", "gpo_exponential", "gpo_savage"])
def test_a_tie_between_equals_pulls_nowhere(name: str) -> None:
    a = torch.tensor([0.4, -1.0], dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    PAIRED[name][0](a, b, torch.full((2,), 0.5, dtype=torch.float64)).sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert a.grad.abs().max() < 1e-12


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 0.49))
def test_smoothing_labels_is_symmetric_and_keeps_ties(p: float, smoothing: float) -> None:
    label = torch.tensor([p, 1 - p, 0.5], dtype=torch.float64)
    smoothed = losses.smoothed_labels(label, smoothing)
    assert smoothed[0] + smoothed[1] == pytest.approx(1)
    assert smoothed[2] == 0.5
    h = torch.tensor([1.7, -1.7, 3.0], dtype=torch.float64)
    mixed = (1 - smoothing) * losses.sigmoid_preference_loss(h, label, BETA) + smoothing * losses.sigmoid_preference_loss(
        h, 1 - label, BETA
    )
    torch.testing.assert_close(losses.sigmoid_preference_loss(h, smoothed, BETA), mixed)


def test_wpo_weighs_without_gradient_through_the_weight() -> None:
    a, b, p = _inputs(3)
    mean_a, mean_b = -a.detach().square() / 9, -b.detach().square() / 9
    value = losses.policy_weighted_preference_loss(a - b, mean_a, mean_b, p, BETA)
    weight = np.exp((mean_a + mean_b).numpy())
    np.testing.assert_allclose(value.detach().numpy(), weight * _dpo((a - b).detach().numpy(), p.numpy()), rtol=1e-10)
    assert torch.autograd.gradcheck(lambda a, b: losses.policy_weighted_preference_loss(a - b, mean_a, mean_b, p, BETA), (a, b))
    means = (-a.square() / 9, -b.square() / 9)
    (through,) = torch.autograd.grad(losses.policy_weighted_preference_loss((a - b).detach() + 0 * a, *means, p, BETA).sum(), a)
    assert through.abs().max() == 0


def test_seppo_flips_the_checkpoints_sample_where_the_anchor_has_fallen() -> None:
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, -1.0, 0.5, -0.5], [0.3, 0.3, -2.0, -2.0]))
    sure = torch.ones(4, dtype=torch.float64)
    won = np.array([1.0 - 0.3, -1.0 + 0.3, 0.5 + 2.0, -0.5 - 2.0])  # minus the other's where rho_w >= 0, else plus
    value = losses.semi_policy_preference_loss(a, b, sure, BETA)
    np.testing.assert_allclose(value.detach().numpy(), -_ls(BETA * won), rtol=1e-12)
    p = torch.tensor([0.2, 0.7, 0.5, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: losses.semi_policy_preference_loss(a, b, p, BETA), (a, b))


def test_token_guidance_scales_by_reward_without_gradient() -> None:
    rewards = torch.tensor([0.5, -0.2], dtype=torch.float64, requires_grad=True)
    better, worse = losses.token_guidance(rewards, 0.5)
    assert better.tolist() == pytest.approx([1.25, 0.9])
    assert worse.tolist() == pytest.approx([0.75, 1.1])
    assert not better.requires_grad


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon", "alpha", "reverse_kl"])
def test_divergence_rewards_rise_and_stay_finite(divergence: Divergence) -> None:
    rho = torch.linspace(-2000, 2000, 4001, dtype=torch.float64)
    reward = divergence_reward(rho, divergence)
    assert torch.isfinite(reward).all()
    assert (reward.diff() >= 0).all()
    origin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence_reward(origin, divergence).sum(), origin)
    assert float(slope) == pytest.approx({"jensen_shannon": 0.5}.get(divergence, 1.0))  # f''(1)


def test_shapes_have_their_limits() -> None:
    x = torch.tensor([-3.0, -0.5, -0.01], dtype=torch.float64)
    torch.testing.assert_close(alpha_reward(x, 1e-7), alpha_reward(x, 0.0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(divergence_reward(x, "alpha", 1e-7), x, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(alpha_reward(torch.tensor([-1e5]), 1.0)).all()
    functions: tuple[PreferenceFunction, ...] = ("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage")
    for function in functions:
        far = losses.generalised_preference_loss(torch.tensor([-1e4, 1e4]), torch.tensor([1.0, 0.0]), 1.0, function)
        assert torch.isfinite(far).all()


def test_gpo_contains_dpo_slic_and_ipo() -> None:
    a, b, p = _inputs(4)
    h = a - b
    torch.testing.assert_close(losses.generalised_preference_loss(h, p, BETA, "logistic"), losses.sigmoid_preference_loss(h, p, BETA))
    torch.testing.assert_close(losses.generalised_preference_loss(h, p, BETA, "hinge"), losses.hinge_preference_loss(h, p, BETA))
    squared = losses.generalised_preference_loss(h, p, BETA, "squared") / BETA**2
    torch.testing.assert_close(squared, losses.identity_preference_loss(h, p, BETA / 2))


def test_sppo_matches_the_formula_and_its_slope() -> None:
    rho, _, win = _inputs(5)
    value = losses.self_play_loss(rho, win, BETA)
    np.testing.assert_allclose(value.detach().numpy(), (rho.detach().numpy() - (win.numpy() - 0.5) / BETA) ** 2, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda rho: losses.self_play_loss(rho, win, BETA), (rho,))


@pytest.mark.parametrize("kl", [1.3, -0.4])
def test_kto_matches_the_formula_and_its_slope(kl: float) -> None:
    rho, _, desirable = _inputs(6)
    value = losses.kahneman_tversky_loss(rho, desirable, kl, BETA, 1.5, 0.8)
    z, r, d = max(kl, 0), rho.detach().numpy(), desirable.numpy()
    expected = 1.5 * d * (1 - _sig(BETA * (r - z))) + 0.8 * (1 - d) * (1 - _sig(BETA * (z - r)))
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda rho: losses.kahneman_tversky_loss(rho, desirable, kl, BETA, 1.5, 0.8), (rho,))


def test_kto_learns_nothing_from_a_completion_that_is_as_good_as_not() -> None:
    rho = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    losses.kahneman_tversky_loss(rho, torch.full((2,), 0.5, dtype=torch.float64), 0.4, BETA).sum().backward()  # type: ignore[no-untyped-call]
    assert rho.grad is not None
    assert rho.grad.abs().max() < 1e-15


def test_nash_md_and_spo_are_policy_gradients() -> None:
    log_prob, rho, win = _inputs(7)
    value = losses.nash_policy_loss(log_prob, rho, win, BETA)
    np.testing.assert_allclose(value.detach().numpy(), (BETA * rho.detach() - (win - 0.5)).numpy() * log_prob.detach().numpy(), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: losses.nash_policy_loss(x, rho.detach(), win, BETA), (log_prob,))
    (through,) = torch.autograd.grad((losses.nash_policy_loss(log_prob.detach(), rho, win, BETA) + 0 * rho).sum(), rho)
    assert through.abs().max() == 0
    ratio = np.exp(0.2 * rho.detach().numpy())
    advantage = win.numpy() - 0.5
    spo = losses.self_play_policy_loss(0.2 * rho, win, 0.2)
    np.testing.assert_allclose(
        spo.detach().numpy(), -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage), rtol=1e-10, atol=1e-14
    )
    assert torch.autograd.gradcheck(lambda rho: losses.self_play_policy_loss(rho, win, 0.2), (0.2 * rho.detach()).requires_grad_())


def _lists(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Five lists of 1 to 4 completions, one with ties."""
    rng = np.random.default_rng(seed)
    scores = torch.tensor(-rng.exponential(size=(5, 4)), requires_grad=True)
    rewards = torch.tensor(rng.normal(size=(5, 4)))
    rewards[2] = 0.3
    rewards[3, :2] = 1.0
    present = torch.arange(4) < torch.tensor([4, 1, 4, 3, 2])[:, None]
    return scores, rewards, present


def _pro(scores: Floats, rewards: Floats) -> float:
    order = np.argsort(-rewards, kind="stable")
    s, r, total = scores[order], rewards[order], 0.0
    for k in range(len(s) - 1):
        gaps = r[k] - r[k + 1 :]
        own = np.exp(s[k] * gaps.max())
        total -= np.log(own / (own + np.exp(s[k + 1 :] * gaps).sum()))
    return float(total)


def _rrhf(scores: Floats, rewards: Floats) -> float:
    n = len(scores)
    return float(sum(max(0.0, scores[i] - scores[j]) for i in range(n) for j in range(n) if rewards[i] < rewards[j]))


@pytest.mark.parametrize(("loss", "formula"), [(losses.ranking_loss, _pro), (losses.ranking_hinge_loss, _rrhf)], ids=["pro", "rrhf"])
def test_list_losses_match_the_formula_and_their_slope(loss: Loss, formula: Callable[[Floats, Floats], float]) -> None:
    scores, rewards, present = _lists(0)
    value = loss(scores, rewards, present)
    expected = [formula(s[m].detach().numpy(), r[m].numpy()) for s, r, m in zip(scores, rewards, present, strict=True)]
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert value[1] == 0
    assert torch.autograd.gradcheck(lambda s: loss(s, rewards, present), (scores,))
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    assert torch.isfinite(gradient).all()
    assert gradient[~present].abs().max() == 0
    assert gradient[2].abs().max() == 0  # nothing but ties


@pytest.mark.parametrize("loss", [losses.ranking_loss, losses.ranking_hinge_loss], ids=["pro", "rrhf"])
def test_list_losses_do_not_depend_on_order_padding_or_absent_entries(loss: Loss) -> None:
    scores, rewards, present = _lists(1)
    value = loss(scores, rewards, present)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(scores[:, order], rewards[:, order], present[:, order]), value)
    garbage = torch.where(present, rewards, 1e6)
    torch.testing.assert_close(loss(torch.where(present, scores, -7.0), garbage, present), value)


def test_pro_hardly_pushes_down_what_is_nearly_as_good() -> None:
    present = torch.ones(1, 3, dtype=torch.bool)
    scores = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.ranking_loss(scores, torch.tensor([[1.0, 0.99, -1.0]]).double(), present).sum(), scores)
    assert slope[0, 0] < 0
    assert slope[0, 1] < 0  # as a loser it counts .01, as the second best against the last 1.99
    assert slope[0, 2] > 0
