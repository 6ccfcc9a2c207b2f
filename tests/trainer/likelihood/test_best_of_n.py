"""Best-of-n weights against counting, the best-of-n policy against its definition, and the surrogate of the Jeffreys divergence."""

from itertools import combinations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.trainer.credit.best_of_n import (
    best_of_n_log_ratio,
    best_of_n_weights,
    exponential_weights,
    jeffreys_weights,
    top_weights,
)

Floats = npt.NDArray[np.float64]
REWARDS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=6).map(np.array)


def _winners(rewards: Floats, drawn: tuple[int, ...]) -> list[int]:
    best = max(rewards[index] for index in drawn)
    return [index for index in drawn if rewards[index] == best]


@given(REWARDS, st.data())
def test_weights_count_the_subsets_each_rollout_wins(rewards: Floats, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(rewards)))
    expected = np.zeros(len(rewards))
    subsets = list(combinations(range(len(rewards)), n))
    for subset in subsets:
        for winner in _winners(rewards, subset):
            expected[winner] += 1 / len(_winners(rewards, subset)) / len(subsets)
    # Ties are shared evenly over all that are tied, whatever subset they were drawn in.
    for level in np.unique(rewards):
        expected[rewards == level] = expected[rewards == level].mean()
    np.testing.assert_allclose(best_of_n_weights(rewards, n), expected, atol=1e-12)


def test_the_best_of_all_shares_ties_and_one_of_one_is_uniform() -> None:
    rewards = np.array([1.0, 3.0, 3.0, 0.0])
    assert best_of_n_weights(rewards, 4).tolist() == [0, 0.5, 0.5, 0]
    assert best_of_n_weights(rewards, 1).tolist() == [0.25] * 4
    for n in (0, 5):
        with pytest.raises(ValueError, match=r"n must lie in 1\.\.4"):
            best_of_n_weights(rewards, n)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_best_of_n_policy_is_that_of_drawing_n_and_keeping_the_best(n: int) -> None:
    rng = np.random.default_rng(n)
    probabilities, rewards = rng.dirichlet(np.ones(5)), np.array([0.3, 1.0, 0.3, -1.0, 2.0])
    expected = np.zeros(5)
    for drawn in product(range(5), repeat=n):
        chance = float(np.prod(probabilities[list(drawn)]))
        for winner in _winners(rewards, drawn):
            expected[winner] += chance / len(_winners(rewards, drawn))
    # Within a tie the draw shares by the policy's own proportions.
    tied = [0, 2]
    expected[tied] = expected[tied].sum() * probabilities[tied] / probabilities[tied].sum()
    np.testing.assert_allclose(probabilities * np.exp(best_of_n_log_ratio(probabilities, rewards, n)), expected, rtol=1e-12)


def test_for_rare_outcomes_the_log_ratio_is_that_of_continuous_rewards() -> None:
    count, n = 20_000, 4
    rewards = np.linspace(0, 1, 400)
    probabilities = np.full(400, 1 / count)
    probabilities[0] = 1 - 399 / count
    ratio = best_of_n_log_ratio(probabilities, rewards, n)
    np.testing.assert_allclose(ratio[1:], np.log(n) + (n - 1) * np.log(probabilities.cumsum()[1:]), atol=2e-4)


def test_top_weights_share_the_boundary() -> None:
    assert top_weights(np.array([5.0, 1.0, 2.0, 2.0, 2.0]), 2) == pytest.approx([1, 0, 1 / 3, 1 / 3, 1 / 3])
    assert top_weights(np.array([1.0, 0.0]), 2).tolist() == [1, 1]
    with pytest.raises(ValueError, match="keep"):
        top_weights(np.array([1.0]), 2)


def test_exponential_weights_do_not_overflow() -> None:
    assert exponential_weights(np.array([1e4, 1e4 + np.log(3)]), 1.0) == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("forward_share", [0.0, 0.3, 1.0])
def test_the_surrogate_has_the_gradient_of_the_jeffreys_divergence(forward_share: float) -> None:
    """Exactly, where the policy's probabilities are known: d/d log pi of the two divergences by central differences over logits."""
    rng = np.random.default_rng(5)
    logits, anchor = rng.normal(size=6), rng.dirichlet(np.ones(6))
    rewards = np.array([0.0, 1.0, 1.0, 0.5, -2.0, 3.0])
    target = anchor * np.exp(best_of_n_log_ratio(anchor, rewards, 3))

    def policy(at: Floats) -> Floats:
        weights = np.exp(at - at.max())
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def divergence(at: Floats) -> float:
        pi = policy(at)
        forward, backward = float(target @ np.log(target / pi)), float(pi @ np.log(pi / target))
        return forward_share * forward + (1 - forward_share) * backward

    step = 1e-6
    expected = [(divergence(logits + step * e) - divergence(logits - step * e)) / (2 * step) for e in np.eye(6)]
    pi = policy(logits)
    weights = jeffreys_weights(rewards, np.log(pi), np.log(anchor), n=3, forward_share=forward_share, probabilities=pi)
    pull = pi * weights
    np.testing.assert_allclose(-(pull - pi * pull.sum()), expected, atol=1e-8)


def test_estimated_weights_have_the_promised_means_and_no_infinities() -> None:
    rng = np.random.default_rng(6)
    rewards, log_probs = rng.normal(size=5), -rng.exponential(size=5)
    own = jeffreys_weights(rewards, log_probs, log_probs, n=2, forward_share=1.0)
    assert own.mean() == pytest.approx(1)
    assert jeffreys_weights(rewards, log_probs, log_probs, n=2, forward_share=0.0).mean() == pytest.approx(0, abs=1e-12)
    # Leave-one-out: moving one rollout's gain moves its own weight in full.
    far = log_probs - np.array([900.0, 0, 0, 0, 0])
    assert np.isfinite(jeffreys_weights(rewards, log_probs, far, n=2, forward_share=0.5)).all()
