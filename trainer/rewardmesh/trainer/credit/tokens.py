"""Credit as one advantage per token, for policy-gradient losses; and that of an actor and critic (PPO): KL-shaped rewards, GAE.

Whitening is over what the optimiser steps on, explicitly: over completion tokens, or over macro actions where there are any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, concatenated
from rewardmesh.trainer.credit.base import Credit, CreditRow
from rewardmesh.trainer.credit.importance import ImportanceCorrection, importance_weights
from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.credit.macros import macro_starts
from rewardmesh.trainer.credit.scores import ScoreRule, scored_groups
from rewardmesh.trainer.losses.gae import generalised_advantages, whiten
from rewardmesh.trainer.losses.kl import KL_ESTIMATORS, KLEstimator, k1
from rewardmesh.trainer.losses.macro import macro_index, macro_sum
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, all_rollouts


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenCredit(Credit):
    """Tensor[N]s in the layout of `rollouts`: what each completion token is worth, and what the clipped losses compare with.

    `advantages` float32; `old_log_probs` float32 under the sampling policy, or the trainer's own before the update where a `correction`
    was asked for; `weight` multiplies each token's loss and `mass` is what it counts in the normaliser (None: its weight);
    `importance` multiplies its policy loss alone. `returns` and `old_values` when there is a critic; `reference_log_probs` when there
    is a reference; `macro_starts` bool when several tokens are one action. `whole_groups`: the loss compares the rollouts of a group,
    no part may cut one in two.
    """

    per_token = (
        "advantages",
        "old_log_probs",
        "weight",
        "mass",
        "importance",
        "returns",
        "old_values",
        "reference_log_probs",
        "macro_starts",
    )

    advantages: Tensor
    old_log_probs: Tensor
    weight: Tensor
    mass: Tensor | None = None
    importance: Tensor | None = None
    returns: Tensor | None = None
    old_values: Tensor | None = None
    reference_log_probs: Tensor | None = None
    macro_starts: Tensor | None = None
    correction: ImportanceCorrection | None = None
    whole_groups: bool = False

    @property
    def total_weight(self) -> float:
        """Sum of the token masses."""
        return float((self.weight if self.mass is None else self.mass).double().sum())

    @property
    def needs_old_log_probs(self) -> bool:
        """True while a correction waits for the trainer's own log-probs."""
        return self.correction is not None

    def with_old_log_probs(self, log_probs: Tensor) -> Self:
        """The corrected credit: `old_log_probs` are `log_probs` Tensor[N], `importance` what they say of the sampler's.

        Metrics: `importance_mean`, and `importance_ess`, the effective share of the tokens, (sum w)^2 / (N sum w^2).
        """
        if self.correction is None:
            return super().with_old_log_probs(log_probs)
        self.layout.check(log_probs, "log_probs")
        old = log_probs.detach().cpu().float()
        importance = importance_weights(old, self.old_log_probs, self.layout, self.correction)
        square = float(importance.square().sum()) * max(importance.numel(), 1)
        metrics = {
            "importance_mean": float(importance.mean()) if importance.numel() else 0.0,
            "importance_ess": float(importance.sum()) ** 2 / square if square else 0.0,
        }
        return replace(self, old_log_probs=old, importance=importance, correction=None, metrics={**self.metrics, **metrics})

    @property
    def why_whole(self) -> str:
        """Some losses compare the rollouts of a group."""
        return "a group in two: its loss compares all of its rollouts" if self.whole_groups else ""

    def ledger_rows(self) -> dict[str, CreditRow]:
        """Credit of a rollout: the mean advantage of its tokens."""
        return self._rows("mean_advantage", self.layout.mean(self.advantages).tolist())


def token_credit(
    groups: Sequence[Group],
    values: Tensor,
    *,
    kl_coef: float,
    kl_estimator: KLEstimator = "k1",
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten_advantages: bool = True,
    reward_clip: float | None = None,
    missing_eos_penalty: float = 0.0,
    rule: ScoreRule | None = None,
    needs_reference: bool = False,
    token_rewards: Mapping[str, FloatArray] | None = None,
    macro_tokens: int = 1,
    macro_end_ids: Sequence[int] = (),
    correction: ImportanceCorrection | None = None,
) -> TokenCredit:
    """Advantages and returns of the rollouts that have a score; the others enter neither whitening nor the critic's target.

    `values` Tensor[N] over `all_rollouts(groups)`. Reward of a token: -kl_coef * k(old, reference), and what `token_rewards` gives it
    (rollout id -> float[m], m completion tokens; nothing for a rollout without an entry); the last token also gets the score, under
    `rule` or else under `reward_clip` and `missing_eos_penalty` (see `ScoreRule`). A cut completion ends its episode all the same: the
    value after its last token is 0. References are required of every rollout where kl_coef > 0 or `needs_reference`.
    With macro actions (`macro_tokens` > 1) a macro action has the sum of its tokens' rewards and the value of the state it begins in;
    its advantage and return stand at each of its tokens, and only its first token has weight.
    """
    everyone = all_rollouts(groups)
    total = sum(rollout.length for rollout in everyone)
    if values.shape != (total,):
        raise ValueError(f"values has shape {tuple(values.shape)}, the rollouts of groups have {total} completion tokens")
    starts = dict(zip((rollout.id for rollout in everyone), np.cumsum([0, *(rollout.length for rollout in everyone)]), strict=False))
    left_out = LeftOut()
    with_reference = needs_reference or kl_coef != 0
    found = scored_groups(groups, left_out, needs_reference=with_reference)
    raw = np.concatenate([np.zeros(0), *(group.scores for group in found)])
    rollouts = [rollout for group in found for rollout in group.rollouts]
    rule = (rule or ScoreRule(clip=reward_clip, missing_eos_penalty=missing_eos_penalty)).with_batch(raw)
    layout = TokenLayout.of(rollouts)
    tokens = torch.cat([torch.zeros(0, dtype=torch.long), *(torch.arange(starts[r.id], starts[r.id] + r.length) for r in rollouts)])
    old_values = values.detach().cpu().float()[tokens]
    old_log_probs = torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in rollouts]))
    reference = reference_log_probs_of([(group.group, group.indices) for group in found])
    rewards = torch.zeros(layout.tokens, dtype=torch.float64)
    if kl_coef:
        assert reference is not None
        rewards -= kl_coef * KL_ESTIMATORS[kl_estimator](old_log_probs.double(), reference.double())
    for rollout, begin in zip(rollouts, layout.offsets.tolist(), strict=False):
        extra = (token_rewards or {}).get(rollout.id)
        if extra is not None:
            rewards[begin : begin + rollout.length] += torch.from_numpy(np.asarray(extra, dtype=np.float64))
    rewards[layout.offsets[1:] - 1] += torch.from_numpy(rule(raw, rollouts))
    begins = macro_starts(rollouts, macro_tokens, macro_end_ids) if macro_tokens > 1 else None
    state_values, ends = old_values.double(), layout.offsets
    if begins is not None:
        rewards, state_values = macro_sum(rewards, begins), state_values[begins]
        ends = torch.cat([torch.zeros(1, dtype=torch.long), begins.long().cumsum(0)])[layout.offsets]
    advantages, returns = generalised_advantages(rewards, state_values, ends, gamma, lam)
    metrics = score_metrics(raw, rollouts, layout, reference)
    metrics["explained_variance"] = _explained_variance(state_values, returns)
    advantages = whiten(advantages) if whiten_advantages else advantages
    weight = torch.ones(layout.tokens)
    if begins is not None:
        advantages, returns, weight = advantages[macro_index(begins)], returns[macro_index(begins)], begins.float()
    return TokenCredit(
        rollouts=tuple(rollouts),
        normaliser=float(weight.sum()),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics=metrics,
        advantages=advantages.float(),
        old_log_probs=old_log_probs,
        weight=weight,
        returns=returns.float(),
        old_values=old_values,
        reference_log_probs=reference,
        macro_starts=begins,
        correction=correction,
    )


def reference_log_probs_of(chosen: Sequence[tuple[Group, Sequence[int]]]) -> Tensor | None:
    """float32[N] of the rollouts at the indices of each group, end to end; None when one of them has none."""
    references = [group.reference_log_probs[index] for group, indices in chosen for index in indices]
    known = [reference for reference in references if reference is not None]
    return torch.from_numpy(concatenated(known)) if len(known) == len(references) else None


def score_metrics(
    scores: np.ndarray[Any, np.dtype[np.float64]], rollouts: Sequence[Rollout], layout: TokenLayout, reference: Tensor | None
) -> dict[str, float]:
    """`rollouts`, the mean and spread of their raw `scores`, `truncated`, and with a reference `kl`: nats per rollout of the policy."""
    count = max(len(rollouts), 1)
    metrics = {
        "rollouts": float(len(rollouts)),
        "score": float(scores.mean()) if scores.size else 0.0,
        "score_std": float(scores.std()) if scores.size else 0.0,
        "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / count,
    }
    own = torch.tensor([rollout.source == "policy" for rollout in rollouts], dtype=torch.bool)
    if reference is not None:
        old = torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in rollouts]))
        sums = layout.sum(k1(old.double(), reference.double()))[own]
        metrics["kl"] = float(sums.mean()) if sums.numel() else 0.0
    return metrics


def _explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); 0 where the returns do not vary."""
    if returns.numel() < 2:
        return 0.0
    spread = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / spread if spread > 0 else 0.0
