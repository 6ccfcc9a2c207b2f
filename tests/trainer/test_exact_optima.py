"""Where algorithms converge on problems whose optima are known: the test that they optimise what they say, rows through the mesh included.

Samples of the current policy, the real credit, the real loss (`optima/training.py`); in the second half the scores come from a verifier
and a judge by way of the gateway (`optima/mesh.py`). Distances are total variation. beta is .5, rewards and reference are in
`optima/problems.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest

from rewardmesh.trainer.credit import Credit
from rewardmesh.trainer.samples import Group, Scores

from .optima.mesh import BanditMesh, bandit_mesh
from .optima.problems import BANDIT, BETA, TREE, Floats, distance
from .optima.training import Actions, Judge, Judged, by_preference, by_reward, by_sampled_label, train

GIBBS = BANDIT.gibbs(BANDIT.reward)
MeshMaker = Callable[[str], AbstractAsyncContextManager[BanditMesh]]


def test_the_problems_tell_the_optima_apart() -> None:
    assert GIBBS.max() < 0.5  # else a collapsed policy could not be farther than .5 from it
    assert distance(GIBBS, BANDIT.reference) > 0.2
    assert distance(GIBBS, BANDIT.forward_kl_optimum()) > 0.05
    assert distance(BANDIT.regularised_nash(), BANDIT.reference) > 0.05
    beats = BANDIT.preferences > 0.5
    assert np.trace(np.linalg.matrix_power(beats.astype(int), 3)) > 0  # some a beats b beats c beats a
    assert float(BANDIT.reference @ BANDIT.failure) == pytest.approx(0.49)
    assert BANDIT.failure.max() < 1


async def test_ppo_with_k1_in_the_reward_reaches_the_gibbs_policy() -> None:
    policy = await train("ppo", by_reward(), kl_coef=BETA, whiten_advantages=False, epochs=1, vf_coef=1.0)
    assert distance(policy, GIBBS) < 0.001


async def test_k2_in_the_loss_reaches_the_gibbs_policy() -> None:
    policy = await train("dr_grpo", by_reward(), kl_in="loss", kl_estimator="k2", kl_coef=BETA)
    assert distance(policy, GIBBS) < 0.002


async def test_k3_in_the_loss_reaches_the_forward_kl_optimum_instead() -> None:
    policy = await train("dr_grpo", by_reward(), kl_in="loss", kl_estimator="k3", kl_coef=BETA)
    assert distance(policy, BANDIT.forward_kl_optimum()) < 0.001
    assert distance(policy, GIBBS) > 0.05


async def test_k1_in_the_loss_regularises_nothing() -> None:
    policy = await train("dr_grpo", by_reward(), kl_in="loss", kl_estimator="k1", kl_coef=BETA)
    assert policy[BANDIT.reward.argmax()] > 0.99


async def test_grpo_with_standardised_rewards_reaches_neither() -> None:
    """A weak anchor lets sigma shrink with the policy until it collapses; a strong one holds at the Gibbs policy of reward / sigma."""
    weak = await train("grpo", by_reward(), kl_in="loss", kl_estimator="k2", kl_coef=BETA)
    assert distance(weak, GIBBS) > 0.2
    assert distance(weak, BANDIT.forward_kl_optimum()) > 0.2
    strong = await train("grpo", by_reward(), kl_in="loss", kl_estimator="k2", kl_coef=2.0)
    assert distance(strong, BANDIT.gibbs(BANDIT.reward, 2.0)) > 0.1
    assert distance(strong, BANDIT.standardised_gibbs(2.0)) < 0.005


async def test_online_dpo_with_labels_drawn_from_bradley_terry_reaches_the_gibbs_policy() -> None:
    policy = await train("online_dpo", by_sampled_label, beta=BETA, label_source="preferences", samples=32, steps=2000, rate=0.05)
    assert distance(policy, GIBBS) < 0.01


async def test_reward_temperature_scales_the_reward() -> None:
    policy = await train("online_dpo", by_reward(), beta=BETA, reward_temperature=2.0, pair_selection="random")
    assert distance(policy, BANDIT.gibbs(BANDIT.reward / 2)) < 0.001


async def test_nash_self_play_reaches_the_regularised_nash_policy() -> None:
    policy = await train("nash_md", by_preference, label_source="preferences", beta=BETA, samples=128)
    assert distance(policy, BANDIT.regularised_nash()) < 0.002


async def test_nash_md_against_a_mixture_stays_near_the_same_equilibrium() -> None:
    """It reaches the equilibrium against that mixture, which is not quite the other."""
    policy = await train("nash_md", by_preference, label_source="preferences", beta=BETA, mixture=0.5)
    assert distance(policy, BANDIT.regularised_nash(mixture=0.5)) < 0.002
    assert distance(policy, BANDIT.regularised_nash()) < 0.015


async def test_the_kl_of_whole_completions_reaches_the_gibbs_policy() -> None:
    gibbs = TREE.gibbs(TREE.reward)
    assert distance(await train("rloo", by_reward(TREE), problem=TREE, kl_coef=BETA), gibbs) < 0.001
    in_loss = await train("rloo", by_reward(TREE), problem=TREE, kl_in="loss", kl_estimator="k2", kl_level="sequence", kl_coef=BETA)
    assert distance(in_loss, gibbs) < 0.01
    of_tokens = await train("dr_grpo", by_reward(TREE), problem=TREE, kl_in="loss", kl_estimator="k2", kl_level="sequence", kl_coef=BETA)
    assert distance(of_tokens, gibbs) < 0.01


async def test_the_kl_of_each_token_alone_is_biased() -> None:
    """A token then does not pay for the KL that it makes later tokens pay."""
    policy = await train("dr_grpo", by_reward(TREE), problem=TREE, kl_in="loss", kl_estimator="k2", kl_level="token", kl_coef=BETA)
    assert distance(policy, TREE.gibbs(TREE.reward)) > 0.1


# Through a verifier, a judge and the gateway.


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeshMaker:
    """mesh(program): the services with the bandit's verifier, which workers must be able to import too."""
    here = str(Path(__file__).parent / "optima")
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)
    return lambda program: bandit_mesh(tmp_path, program)


async def test_rloo_with_k1_in_the_reward_reaches_the_gibbs_policy(mesh: MeshMaker) -> None:
    async with mesh("rewards") as bandit:
        policy = await train("rloo", bandit.judge, kl_coef=BETA, steps=200)
    assert bandit.samples == 200 * 64
    assert bandit.absences == 0
    assert distance(policy, GIBBS) < 0.001


async def test_online_dpo_with_soft_labels_reaches_the_gibbs_policy(mesh: MeshMaker) -> None:
    async with mesh("rewards") as bandit:
        policy = await train("online_dpo", bandit.judge, beta=BETA, pair_selection="random", steps=200)
    assert distance(policy, GIBBS) < 0.001


async def test_online_dpo_with_hard_labels_collapses(mesh: MeshMaker) -> None:
    async with mesh("rewards") as bandit:
        policy = await train("online_dpo", bandit.judge, beta=BETA, label="hard", samples=32, rate=0.3, steps=200)
    assert distance(policy, GIBBS) > 0.5
    assert policy[BANDIT.reward.argmax()] > 0.95


async def test_online_ipo_on_a_circle_of_preferences_reaches_the_regularised_nash_policy(mesh: MeshMaker) -> None:
    async with mesh("preferences") as bandit:
        policy = await train("ipo", bandit.judge_arms, beta=BETA, label_source="preferences", samples=32, steps=200)
    assert distance(policy, BANDIT.regularised_nash()) < 0.002


async def test_absences_left_out_of_loss_and_baseline_do_no_harm(mesh: MeshMaker) -> None:
    async with mesh("failing") as bandit:
        policy = await train("rloo", bandit.judge, kl_coef=BETA, steps=200)
    assert 0.4 < bandit.absences / bandit.samples < 0.7
    assert distance(policy, GIBBS) < 0.001


async def test_absences_are_in_no_pair_and_do_no_harm(mesh: MeshMaker) -> None:
    async with mesh("failing") as bandit:
        policy = await train("online_dpo", bandit.judge, beta=BETA, pair_selection="random", steps=200)
    assert bandit.absences > 0.4 * bandit.samples
    assert distance(policy, GIBBS) < 0.001


class Imputing:
    """What this trainer never does: a score of 0 for an absence. `absent` holds the ids of the last group's."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.absent: set[str] = set()

    async def judge(self, actions: Actions, rng: np.random.Generator) -> Judged:
        judged = await self._judge(actions, rng)
        self.absent = {f"{k}" for k, scores in enumerate(judged.scores) if scores.absence == "ABSTAINED"}
        return Judged([Scores(0.0) if scores.reward is None else scores for scores in judged.scores])

    def out_of_the_loss(self, group: Group, credit: Credit) -> Credit:
        """The credit without the absent ones, whose zeros stay in the baseline."""
        return credit.select([k for k, rollout in enumerate(credit.rollouts) if rollout.id not in self.absent])


async def test_absences_taken_for_zero_reach_the_optimum_of_another_reward(mesh: MeshMaker) -> None:
    async with mesh("failing") as bandit:
        policy = await train("rloo", Imputing(bandit.judge).judge, kl_coef=BETA, steps=200)
    assert distance(policy, GIBBS) > 0.2
    assert distance(policy, BANDIT.gibbs((1 - BANDIT.failure) * BANDIT.reward)) < 0.005


async def test_absences_out_of_the_loss_but_as_zeros_in_the_baseline_are_nearly_as_bad(mesh: MeshMaker) -> None:
    async with mesh("failing") as bandit:
        imputing = Imputing(bandit.judge)
        policy = await train("rloo", imputing.judge, kl_coef=BETA, steps=200, spoil=imputing.out_of_the_loss)
    assert distance(policy, GIBBS) > 0.2
    assert distance(policy, _half_masked_optimum()) < 0.01


def _half_masked_optimum() -> Floats:
    """Where the expected gradient sum pi (1 - f) (R - b) grad log pi vanishes, b the mean with zeros for absent rewards."""
    logits, present = np.log(BANDIT.reference), 1 - BANDIT.failure
    for _ in range(20_000):
        policy = np.exp(logits) / np.exp(logits).sum()
        penalty = BETA * (np.log(policy) - np.log(BANDIT.reference))
        baseline = policy @ (present * BANDIT.reward - penalty)
        weight = policy * present * (BANDIT.reward - penalty - baseline)
        logits = logits + 0.3 * (weight - policy * weight.sum())
    return np.asarray(policy)
