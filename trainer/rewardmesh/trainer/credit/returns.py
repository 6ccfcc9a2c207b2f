"""Critic-free credit: the returns of a group's completions against a baseline taken from the group, the greedy rollout or the batch.

One advantage per completion (RLOO, GRPO and their relatives): the return is the score less the KL penalty of the whole completion.
Or one per token (REINFORCE++: Hu et al. 2025, arXiv 2501.03262; ReMax: Li et al. 2023, arXiv 2310.10505): the KL-shaped reward still to
come from the token on, with the score less its baseline at the last token.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, concatenated
from rewardmesh.trainer.credit.aggregation import Aggregation, aggregation_weights
from rewardmesh.trainer.credit.baselines import NEEDS_COMPANY, Baseline, baseline_advantages, leave_one_out
from rewardmesh.trainer.credit.importance import ImportanceCorrection
from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.credit.scores import ScoredGroup, ScoreRule, WinMatrix, scored_groups
from rewardmesh.trainer.credit.tokens import TokenCredit, reference_log_probs_of, score_metrics
from rewardmesh.trainer.losses.gae import generalised_advantages, whiten
from rewardmesh.trainer.losses.kl import KL_ESTIMATORS, KLEstimator
from rewardmesh.trainer.samples import Group, Rollout

Whitening = Literal["none", "tokens", "sequences"]


def return_credit(
    groups: Sequence[Group],
    *,
    baseline: Baseline,
    kl_coef: float = 0.0,
    kl_estimator: KLEstimator = "k1",
    needs_reference: bool = False,
    token_returns: bool = False,
    gamma: float = 1.0,
    whitening: Whitening = "none",
    aggregation: Aggregation = "token",
    constant_length: int = 1,
    rule: ScoreRule | None = None,
    drop_zero_variance: bool = False,
    mask_truncated: bool = False,
    win_matrix: WinMatrix | None = None,
    correction: ImportanceCorrection | None = None,
    whole_groups: bool = False,
) -> TokenCredit:
    """Advantages of the scored samples of `groups`; what has no score enters neither the loss nor a baseline, and is counted.

    `kl_coef` (in the reward) times the estimator of old against reference is taken off the rewards; references are required of every
    rollout where it is not 0 or with `needs_reference`. `baseline`: see `baselines`; a group of one is left out where it needs company,
    a group without a scored greedy rollout for "greedy", and "win_probability" needs `win_matrix`. `drop_zero_variance` leaves out
    groups whose raw scores are all equal. `mask_truncated` keeps the score of a truncated completion in the baseline and its tokens out
    of the loss. `whitening` is over what enters the loss: its tokens, or (one advantage per completion) its sequences.
    """
    if (baseline == "win_probability") != (win_matrix is not None):
        raise ValueError("win_matrix goes with the baseline win_probability")
    if token_returns and whitening == "sequences":
        raise ValueError("whitening of sequences needs one advantage per completion")
    left_out = LeftOut()
    found = scored_groups(groups, left_out, needs_reference=needs_reference or kl_coef != 0, win_matrix=win_matrix)
    scores = np.concatenate([np.zeros(0), *(group.scores for group in found)])
    metrics = _score_metrics(found, scores)
    rule = (rule or ScoreRule()).with_batch(scores)
    taken = [group for group in found if _has_baseline(group, baseline, drop_zero_variance, left_out)]
    rollouts: list[Rollout] = []
    chosen: list[tuple[Group, list[int]]] = []
    advantages: list[Tensor] = []
    for group in taken:
        credited = _group_credit(group, baseline, rule, kl_coef, kl_estimator, gamma if token_returns else None)
        kept = [place for place, rollout in enumerate(group.rollouts) if not (mask_truncated and rollout.finish_reason == "length")]
        for rollout in group.rollouts:
            if mask_truncated and rollout.finish_reason == "length":
                left_out.sample(rollout, "truncated")
        rollouts += [group.rollouts[place] for place in kept]
        chosen.append((group.group, [group.indices[place] for place in kept]))
        advantages += [credited[place] for place in kept]
    layout = TokenLayout.of(rollouts)
    if whitening == "sequences":
        of_token = whiten(torch.tensor([float(own[0]) for own in advantages], dtype=torch.float64))[layout.sequence_index]
    else:
        of_token = torch.cat([torch.zeros(0, dtype=torch.float64), *advantages])
        of_token = whiten(of_token) if whitening == "tokens" else of_token
    weight, mass = aggregation_weights(rollouts, aggregation, constant_length)
    return TokenCredit(
        rollouts=tuple(rollouts),
        normaliser=float(mass.sum()),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics={**metrics, "trained_rollouts": float(len(rollouts))},
        advantages=of_token.float(),
        old_log_probs=torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in rollouts])),
        weight=weight,
        mass=mass,
        reference_log_probs=reference_log_probs_of(chosen),
        correction=correction,
        whole_groups=whole_groups,
    )


def _score_metrics(found: Sequence[ScoredGroup], scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
    """Of every scored sample, before any is left out for want of a baseline: the running statistics and the adaptive KL read them."""
    rollouts = [rollout for group in found for rollout in group.rollouts]
    reference = reference_log_probs_of([(group.group, group.indices) for group in found])
    return score_metrics(scores, rollouts, TokenLayout.of(rollouts), reference)


def _has_baseline(group: ScoredGroup, baseline: Baseline, drop_zero_variance: bool, left_out: LeftOut) -> bool:
    if baseline in NEEDS_COMPANY and len(group.indices) < 2:
        reason, of_sample = "fewer_than_two_rollouts", "no_partner"
    elif baseline == "greedy" and group.greedy is None:
        reason = of_sample = "no_greedy_baseline"
    elif drop_zero_variance and group.scores.min() == group.scores.max():
        reason = of_sample = "zero_variance"
    else:
        return True
    left_out.group(reason)
    for rollout in group.rollouts:
        left_out.sample(rollout, of_sample)
    return False


def _group_credit(
    group: ScoredGroup, baseline: Baseline, rule: ScoreRule, kl_coef: float, kl_estimator: KLEstimator, gamma: float | None
) -> list[Tensor]:
    """float64[m] per rollout: advantages of its tokens; `gamma` None for one advantage per completion."""
    rollouts = group.rollouts
    layout = TokenLayout.of(rollouts)
    returns = torch.from_numpy(rule(group.scores, rollouts))
    anchor = 0.0
    if group.greedy is not None:
        greedy = group.group.scores[group.greedy].reward
        assert greedy is not None
        anchor = float(rule(np.array([greedy], dtype=np.float64), [group.group.rollouts[group.greedy]])[0])
    penalty = kl_coef * _kl(group, kl_estimator) if kl_coef else torch.zeros(layout.tokens, dtype=torch.float64)
    if gamma is not None:
        rewards = -penalty
        rewards[layout.offsets[1:] - 1] += baseline_advantages(baseline, returns, anchor)
        of_token, _ = generalised_advantages(rewards, torch.zeros_like(rewards), layout.offsets, gamma, 1.0)
    elif baseline == "win_probability":
        # A win probability is compared with the others already; only the penalty still needs a baseline, one of its own.
        of_sequence = baseline_advantages(baseline, returns) - leave_one_out(layout.sum(penalty))
        of_token = of_sequence[layout.sequence_index]
    else:
        of_token = baseline_advantages(baseline, returns - layout.sum(penalty), anchor)[layout.sequence_index]
    return list(torch.split(of_token, list(layout.lengths)))


def _kl(group: ScoredGroup, estimator: KLEstimator) -> Tensor:
    old = torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in group.rollouts])).double()
    reference = reference_log_probs_of([(group.group, group.indices)])
    assert reference is not None
    return KL_ESTIMATORS[estimator](old, reference.double())
