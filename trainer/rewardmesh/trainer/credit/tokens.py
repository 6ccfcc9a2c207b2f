"""Credit as one advantage per token, for policy-gradient losses (PPO): KL-shaped rewards, GAE, whitening."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, admitted, concatenated
from rewardmesh.trainer.credit.base import Credit, CreditRow, group_units
from rewardmesh.trainer.losses.gae import generalised_advantages, whiten
from rewardmesh.trainer.losses.kl import k1
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, all_rollouts

_PER_TOKEN = ("advantages", "old_log_probs", "weight", "returns", "old_values", "reference_log_probs")


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenCredit(Credit):
    """float32[N] tensors in the layout of `rollouts`: what each completion token is worth, and what the clipped losses compare with.

    `old_log_probs` under the sampling policy; `weight` multiplies each token's loss (1 unless corrected); `returns` and
    `old_values` when there is a critic; `reference_log_probs` when there is a reference.
    """

    advantages: Tensor
    old_log_probs: Tensor
    weight: Tensor
    returns: Tensor | None = None
    old_values: Tensor | None = None
    reference_log_probs: Tensor | None = None

    def __post_init__(self) -> None:
        for name in _PER_TOKEN:
            tensor = getattr(self, name)
            if tensor is not None:
                self.layout.check(tensor, name)

    @property
    def total_weight(self) -> float:
        """Sum of the token weights."""
        return float(self.weight.double().sum())

    def select(self, sequences: Sequence[int]) -> Self:
        """The part of the rollouts at `sequences`."""
        tokens = self.layout.token_index(sequences)
        cut: dict[str, Any] = {name: None if getattr(self, name) is None else getattr(self, name)[tokens] for name in _PER_TOKEN}
        return replace(self, rollouts=tuple(self.rollouts[index] for index in sequences), left_out={}, left_out_rollouts={}, **cut)

    def normalised_by(self, normaliser: float) -> Self:
        """The same tokens with another normaliser."""
        return replace(self, normaliser=normaliser)

    def units(self, at_least: int) -> list[list[int]]:
        """One unit per group, which keeps its prompt shared; one per rollout when that gives too few."""
        groups = group_units(self.rollouts)
        return groups if len(groups) >= at_least else [[index] for index in range(len(self.rollouts))]

    def ledger_rows(self) -> dict[str, CreditRow]:
        """Credit of a rollout: the mean advantage of its tokens."""
        rows: dict[str, CreditRow] = {
            id_: {"credit": None, "credit_kind": "mean_advantage", "pairs": 0, "left_out": reason}
            for id_, reason in self.left_out_rollouts.items()
        }
        for rollout, mean in zip(self.rollouts, self.layout.mean(self.advantages).tolist(), strict=True):
            rows[rollout.id] = {"credit": mean, "credit_kind": "mean_advantage", "pairs": 0, "left_out": ""}
        return rows


def token_credit(
    groups: Sequence[Group],
    values: Tensor,
    *,
    kl_coef: float,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten_advantages: bool = True,
    reward_clip: float | None = None,
    missing_eos_penalty: float = 0.0,
) -> TokenCredit:
    """Advantages and returns of the rollouts that have a score; the others enter neither whitening nor the critic's target.

    `values` Tensor[N] over `all_rollouts(groups)`. Reward of a token: -kl_coef * k1(old, reference); the last token also gets the
    score, clipped to +-reward_clip, less `missing_eos_penalty` (after clipping) when the completion was cut at its length limit.
    A cut completion ends its episode all the same: the value after its last token is 0. Without a reference, kl_coef must be 0.
    """
    everyone = all_rollouts(groups)
    total = sum(rollout.length for rollout in everyone)
    if values.shape != (total,):
        raise ValueError(f"values has shape {tuple(values.shape)}, the rollouts of groups have {total} completion tokens")
    starts = dict(zip((rollout.id for rollout in everyone), np.cumsum([0, *(rollout.length for rollout in everyone)]), strict=False))
    left_out = LeftOut()
    rollouts: list[Rollout] = []
    scores: list[float] = []
    references: list[FloatArray] = []
    for group in groups:
        for index in admitted(group, left_out, needs_reference=kl_coef != 0):
            rollout, score, reference = group.rollouts[index], group.scores[index].reward, group.reference_log_probs[index]
            assert score is not None
            score = score if reward_clip is None else max(-reward_clip, min(reward_clip, score))
            rollouts.append(rollout)
            scores.append(score - (missing_eos_penalty if rollout.finish_reason == "length" else 0.0))
            references.append(rollout.sampling_log_probs if reference is None else reference)
    tokens = (
        np.concatenate([np.arange(starts[r.id], starts[r.id] + r.length) for r in rollouts]) if rollouts else np.zeros(0, dtype=np.int64)
    )
    old_values = values.detach().cpu().float()[torch.from_numpy(tokens)]
    old_log_probs = torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in rollouts]))
    reference_log_probs = torch.from_numpy(concatenated(references))
    offsets = torch.tensor(np.cumsum([0, *(rollout.length for rollout in rollouts)]), dtype=torch.long)
    kl = k1(old_log_probs.double(), reference_log_probs.double())
    rewards = -kl_coef * kl
    rewards[offsets[1:] - 1] += torch.tensor(scores, dtype=torch.float64)
    advantages, returns = generalised_advantages(rewards, old_values.double(), offsets, gamma, lam)
    count = max(len(rollouts), 1)
    metrics = {
        "rollouts": float(len(rollouts)),
        "score": sum(scores) / count,
        "kl": float(kl.sum()) / count,
        "explained_variance": _explained_variance(old_values.double(), returns),
        "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / count,
    }
    return TokenCredit(
        rollouts=tuple(rollouts),
        normaliser=float(tokens.size),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics=metrics,
        advantages=(whiten(advantages) if whiten_advantages else advantages).float(),
        old_log_probs=old_log_probs,
        weight=torch.ones(tokens.size),
        returns=returns.float(),
        old_values=old_values,
        reference_log_probs=reference_log_probs,
    )


def _explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); 0 where the returns do not vary."""
    if returns.numel() < 2:
        return 0.0
    spread = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / spread if spread > 0 else 0.0
