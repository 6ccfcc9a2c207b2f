"""Our policy-gradient algorithms against TRL's: GRPO with and without k3, BNPO, Dr. GRPO, DAPO, two-sided clip, GSPO, CISPO, RLOO, PPO.

Whole algorithms: three prompts with four completions each, advantages from rewards, clipped losses in their own aggregation, gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rewardmesh.trainer.algorithms import load_algorithm
from rewardmesh.trainer.credit import TokenCredit, TokenLayout, token_credit
from rewardmesh.trainer.losses import clipped_policy_loss, clipped_value_loss, whiten
from rewardmesh.trainer.samples import Group, Rollout, Scores

from .conftest import TOLERANCE, Oracle
from .drivers.harness import Inputs

pytestmark = [pytest.mark.oracles, pytest.mark.slow]

PER_PROMPT = 4


def groups_of(
    old: Tensor, reference: Tensor, lengths: Sequence[int], rewards: Sequence[float], per_prompt: int = PER_PROMPT
) -> list[Group]:
    """Rows [B, T] as rollouts, `per_prompt` to a group; a NaN is an absence."""
    groups = []
    for first in range(0, len(lengths), per_prompt):
        rows = range(first, first + per_prompt)
        name, prompt = f"{first}", np.zeros(1, np.int32)
        rollouts = tuple(
            Rollout(f"{row}", name, prompt, np.zeros(lengths[row], np.int32), old[row, : lengths[row]].float().numpy(), "", "", "stop", 0)
            for row in rows
        )
        scores = tuple(Scores(None, "INFRASTRUCTURE") if np.isnan(rewards[row]) else Scores(rewards[row]) for row in rows)
        groups.append(Group(name, rollouts, scores, None, tuple(reference[row, : lengths[row]].float().numpy() for row in rows)))
    return groups


def credit_of(inputs: Inputs, name: str, rewards: str = "rewards", **options: Any) -> TokenCredit:
    lengths = [int(length) for length in inputs.mask.sum(1)]
    groups = groups_of(inputs["old"], inputs["reference"], lengths, inputs[rewards].tolist())
    credit = load_algorithm(name, options).credit(groups, np.random.default_rng(0))
    assert isinstance(credit, TokenCredit)
    return credit


ALGORITHMS: list[tuple[str, str, dict[str, Any]]] = [
    ("grpo", "grpo", {"kl_coef": 0.0}),
    ("grpo/kl", "grpo", {"kl_coef": 0.04}),
    ("bnpo", "grpo", {"kl_coef": 0.0, "aggregation": "token"}),
    ("dr_grpo", "dr_grpo", {"constant_length": 16}),
    ("dapo", "dapo", {"overlong_buffer": 0}),
    ("dapo/two_sided", "dapo", {"overlong_buffer": 0, "dual_clip": 1.6}),
    ("gspo", "gspo", {"clip": 0.03, "clip_high": 0.04}),
    ("cispo", "cispo", {"cap": 1.1}),
    ("rloo", "rloo", {"kl_coef": 0.05}),
]


@pytest.mark.parametrize(("case", "name", "options"), ALGORITHMS, ids=[case for case, _, _ in ALGORITHMS])
def test_loss_and_gradient(trl_1_16: Oracle, case: str, name: str, options: dict[str, Any]) -> None:
    def ours(inputs: Inputs) -> Tensor:
        return load_algorithm(name, options).loss(credit_of(inputs, name, **options), inputs.log_probs[inputs.mask.bool()]).loss

    trl_1_16.agrees(case, ours)
    assert float(trl_1_16.gradient(case).abs().max()) > 1e-3


def test_the_inputs_reach_every_clip(trl_1_16: Oracle) -> None:
    """Tokens, and completions, beyond both bounds with advantages of both signs: where a wrong bound would show."""
    inputs = trl_1_16.inputs()
    log_ratio = (inputs.log_probs.detach() - inputs["old"]) * inputs.mask
    advantages = trl_1_16.value("advantages/grpo").unsqueeze(1)
    mean = log_ratio.sum(1, keepdim=True) / inputs.mask.sum(1, keepdim=True)
    for ratio, low, high in [(log_ratio.exp(), 0.8, 1.28), (mean.exp(), 0.97, 1.04), (log_ratio.sum(1, keepdim=True).exp(), 0.8, 1.2)]:
        for sign in (1, -1):
            assert bool(((ratio < low) & (advantages * sign > 0)).any())
            assert bool(((ratio > high) & (advantages * sign > 0)).any())
    assert bool(((log_ratio.exp() > 1.6) & (advantages < 0)).any())


@pytest.mark.parametrize(
    ("case", "name", "options"),
    [("grpo", "grpo", {}), ("dr_grpo", "dr_grpo", {}), ("rloo", "rloo", {"kl_coef": 0.05})],
    ids=["grpo", "dr_grpo", "rloo"],
)
def test_advantages(trl_1_16: Oracle, case: str, name: str, options: dict[str, Any]) -> None:
    credit = credit_of(trl_1_16.inputs(), name, **options)
    first = credit.advantages[credit.layout.offsets[:-1]].double()
    torch.testing.assert_close(first, trl_1_16.value(f"advantages/{case}"), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("case", "name", "options"), [("grpo_absent", "grpo", {}), ("rloo_absent", "rloo", {"kl_coef": 0.05})])
def test_absent_rewards_are_in_no_baseline(trl_1_16: Oracle, case: str, name: str, options: dict[str, Any]) -> None:
    """TRL gives an absent one the advantage 0 and still counts it when it averages the loss; on purpose ours is not in that mean either."""
    credit = credit_of(trl_1_16.inputs(), name, rewards="rewards_absent", **options)
    here = [int(rollout.id) for rollout in credit.rollouts]
    assert here == [row for row in range(12) if row % 4 != 1]
    theirs = trl_1_16.value(f"advantages/{case}")
    torch.testing.assert_close(credit.advantages[credit.layout.offsets[:-1]].double(), theirs[here], rtol=TOLERANCE, atol=TOLERANCE)
    assert credit.left_out == {"sample:absent:INFRASTRUCTURE": 3}


# PPO: one step of TRL's trainer on models of its own.


def test_ppo_advantages_are_gae_of_the_kl_shaped_rewards(trl_0_28: Oracle) -> None:
    old, reference, scores, values = (trl_0_28.value(f"ppo/{part}") for part in ("old", "reference", "scores", "values"))
    rows, length = old.shape
    groups = groups_of(old, reference, [length] * rows, scores.tolist(), per_prompt=1)
    credit = token_credit(groups, values.flatten().float(), kl_coef=0.05, gamma=0.97, lam=0.9, whiten_advantages=False)
    assert credit.returns is not None
    theirs = trl_0_28.value("ppo/advantages")
    torch.testing.assert_close(credit.advantages.double().reshape(rows, length), theirs, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(credit.returns.double().reshape(rows, length), theirs + values, rtol=TOLERANCE, atol=TOLERANCE)


def test_ppo_losses_of_policy_and_critic(trl_0_28: Oracle) -> None:
    part = {name: trl_0_28.value(f"ppo/{name}") for name in ("old", "new", "values", "new_values", "advantages", "whitened")}
    policy = clipped_policy_loss(part["new"], part["old"], part["whitened"], 0.2)
    torch.testing.assert_close(policy, trl_0_28.value("ppo/policy_loss"), rtol=TOLERANCE, atol=TOLERANCE)
    value = clipped_value_loss(part["new_values"], part["values"], part["advantages"] + part["values"], 0.2)
    torch.testing.assert_close(value, trl_0_28.value("ppo/value_loss"), rtol=TOLERANCE, atol=TOLERANCE)
    ratio = (part["new"] - part["old"]).exp()
    assert bool((ratio > 1.2).any() and (ratio < 0.8).any())
    assert bool(((part["new_values"] - part["values"]).abs() > 0.2).any())


def test_whitening_takes_the_population_deviation(trl_0_28: Oracle) -> None:
    """On purpose: the batch is all there is to whiten, no sample of more. Theirs is unbiased, which makes it sqrt((n - 1) / n) of ours."""
    inputs = trl_0_28.inputs()
    here = inputs.mask.bool()
    ours = whiten(inputs["advantages"][here])
    count = ours.numel()
    theirs = trl_0_28.value("whiten")[here]
    torch.testing.assert_close(ours * ((count - 1) / count) ** 0.5, theirs, rtol=TOLERANCE, atol=TOLERANCE)
    assert TokenLayout(tuple(int(length) for length in inputs.mask.sum(1))).tokens == count
