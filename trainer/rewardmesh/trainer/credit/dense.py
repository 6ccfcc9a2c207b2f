"""Token rewards as a policy gradient takes them: rollout id -> float32[m], m its completion tokens, beside the score at the last token.

They come from the scores of a group (token rewards or spans that a service gave), or from the log-probs of a preference-tuned policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.credit.shaping import attention_potentials, implicit_token_rewards, progress_potentials, shaping_rewards
from rewardmesh.trainer.credit.spans import Placement, spans_to_token_rewards
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, Scores

TokenRewards = Mapping[str, FloatArray]
NO_TOKEN_REWARDS = "NO_TOKEN_REWARDS"
"""Absence of a rollout that has a score but no token rewards (or spans), where the algorithm cannot do without."""


def require_dense(groups: Sequence[Group], *, spans: bool) -> list[Group]:
    """`groups` in which a rollout with a score but without token rewards (with `spans`: without spans) is absent."""

    def kept(scores: Scores) -> Scores:
        given = scores.spans if spans else scores.token_rewards
        if scores.reward is None or given is not None:
            return scores
        return replace(scores, reward=None, absence=NO_TOKEN_REWARDS)

    return [replace(group, scores=tuple(kept(scores) for scores in group.scores)) for group in groups]


def given_rewards(groups: Sequence[Group], coefficient: float) -> TokenRewards:
    """`coefficient` times the token rewards; no entry for a rollout without."""
    return {
        rollout.id: (coefficient * scores.token_rewards).astype("float32")
        for rollout, scores in _scored(groups)
        if scores.token_rewards is not None
    }


def span_rewards(groups: Sequence[Group], coefficient: float, placement: Placement) -> TokenRewards:
    """`coefficient` times the spans' values, placed on their tokens; no entry for a rollout without spans."""
    return {
        rollout.id: (coefficient * spans_to_token_rewards(scores.spans, rollout.length, placement)).astype("float32")
        for rollout, scores in _scored(groups)
        if scores.spans is not None
    }


def shared_out_rewards(groups: Sequence[Group], share: float, token_map: Literal["attention", "rewards"], gamma: float) -> TokenRewards:
    """Shaping that moves `share` of each score from the last token to where its token rewards say; discounted sums are 0.

    `token_map`: the token rewards are an attention map (only proportions count), or rewards that add up to the score or to some other
    account of it.
    """
    moved: dict[str, FloatArray] = {}
    for rollout, scores in _scored(groups):
        if scores.token_rewards is None or scores.reward is None or rollout.length == 0:
            continue
        layout, given = TokenLayout((rollout.length,)), torch.from_numpy(scores.token_rewards)
        if token_map == "attention":
            potentials = attention_potentials(torch.tensor([scores.reward], dtype=torch.float64), given, layout)
        else:
            potentials = progress_potentials(given, layout)
        moved[rollout.id] = shaping_rewards(share * potentials, layout, gamma).float().numpy()
    return moved


def with_implicit_rewards(group: Group, log_probs: Sequence[FloatArray | None], beta: float) -> Group:
    """`group` with token rewards beta log(pi / pi_ref), for a preference-tuned pi that a log-prob service holds beside the reference.

    `log_probs` per rollout float32[m] under pi, None where absent; a rollout without them or without reference log-probs has no
    token rewards. ValueError for a wrong number of entries.
    """
    scores = []
    for given, mine, reference in zip(group.scores, log_probs, group.reference_log_probs, strict=True):
        if mine is None or reference is None:
            scores.append(replace(given, token_rewards=None))
            continue
        rewards = implicit_token_rewards(torch.as_tensor(mine), torch.as_tensor(reference), beta)
        scores.append(replace(given, token_rewards=rewards.numpy()))
    return replace(group, scores=tuple(scores))


def _scored(groups: Sequence[Group]) -> list[tuple[Rollout, Scores]]:
    return [pair for group in groups for pair in zip(group.rollouts, group.scores, strict=True)]
