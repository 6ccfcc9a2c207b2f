"""Training on a problem as in a real run: samples of the current policy, scores from somewhere, and a real algorithm's credit and loss.

Nothing is reweighted or computed in expectation. But the samples are stratified (equally spaced quantiles of the policy), which leaves
expectations as they are and makes 64 samples worth thousands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rewardmesh.trainer.algorithms import load_algorithm
from rewardmesh.trainer.credit import Credit
from rewardmesh.trainer.samples import Group, Rollout, Scores, Source

from .problems import BANDIT, Floats, Problem

SAMPLES = 64
Actions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """What was said of a group: scores, and perhaps preferences float64[k, k]."""

    scores: Sequence[Scores]
    preferences: npt.NDArray[Any] | None = None


Judge = Callable[[Actions, np.random.Generator], Awaitable[Judged]]
"""Scores the outcomes (numbers of completions) of a group."""


def by_reward(problem: Problem = BANDIT) -> Judge:
    """Every outcome has its reward."""

    async def judge(actions: Actions, rng: np.random.Generator) -> Judged:
        return Judged([Scores(float(reward)) for reward in problem.reward[actions]])

    return judge


async def by_preference(actions: Actions, rng: np.random.Generator) -> Judged:
    """Every pair of the bandit has its preference."""
    return Judged([Scores(0.0)] * len(actions), BANDIT.preferences[np.ix_(actions, actions)])


async def by_sampled_label(actions: Actions, rng: np.random.Generator) -> Judged:
    """Every pair of the bandit has one label, 0 or 1, drawn from the Bradley-Terry probability of the rewards."""
    difference = BANDIT.reward[actions][:, None] - BANDIT.reward[actions][None, :]
    wins = rng.uniform(size=difference.shape) < 1 / (1 + np.exp(-difference))
    return Judged([Scores(0.0)] * len(actions), np.where(np.tri(len(actions), dtype=bool), 1.0 - wins.T, wins))


def stratified(policy: Floats, count: int, rng: np.random.Generator) -> Actions:
    """int64[count] samples at equally spaced quantiles with a random offset, in random order."""
    quantiles = (np.arange(count) + rng.uniform()) / count
    return rng.permutation(np.minimum(np.searchsorted(np.cumsum(policy), quantiles), len(policy) - 1))


def group_of(problem: Problem, log_probs: npt.NDArray[np.float32], actions: Actions, sources: Sequence[Source], judged: Judged) -> Group:
    """The group of these outcomes, with the policy's log-probabilities [outcomes, T]."""
    prompt = np.zeros(1, np.int32)
    rollouts = tuple(
        Rollout(f"{k}", "g", prompt, problem.tokens[a], log_probs[a], f"{a}", "", "stop", 0, source)
        for k, (a, source) in enumerate(zip(actions, sources, strict=True))
    )
    return Group("g", rollouts, tuple(judged.scores), judged.preferences, tuple(problem.reference_log_probs[a] for a in actions))


async def train(
    algorithm: str,
    judge: Judge,
    *,
    problem: Problem = BANDIT,
    steps: int = 400,
    rate: float = 0.1,
    samples: int = SAMPLES,
    mixture: float | None = None,
    spoil: Callable[[Group, Credit], Credit] | None = None,
    **options: Any,
) -> Floats:
    """The policy after `steps` steps from the reference, averaged over the last fifth of them; `rate` falls to zero.

    `mixture` m adds as many samples of pi^(1-m) pi_ref^m as opponents. `spoil` makes the credit wrong on purpose. An algorithm that needs
    a critic learns one value beside the policy, for outcomes of one token.
    """
    method, rng = load_algorithm(algorithm, options), np.random.default_rng(5)
    logits, value = problem.start(), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([*logits, value], lr=rate)
    late: list[Floats] = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        policy = problem.policy(logits)
        actions = stratified(policy, samples, rng)
        sources: list[Source] = ["policy"] * samples
        if mixture is not None:
            mixed = policy ** (1 - mixture) * problem.reference**mixture
            actions = np.append(actions, stratified(mixed / mixed.sum(), samples, rng))
            sources += ["mixture"] * samples
        judged = await judge(actions, rng)
        group = group_of(problem, problem.log_probs(logits).detach().float().numpy(), actions, sources, judged)
        credit = method.credit([group], rng, value.detach().expand(len(actions)) if method.needs_critic else None)
        if spoil is not None:
            credit = spoil(group, credit)
        log_probs = problem.log_probs(logits)[[int(rollout.text) for rollout in credit.rollouts]].flatten()
        optimiser.zero_grad()
        method.loss(credit, log_probs, value.expand(len(log_probs)) if method.needs_critic else None).loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        method.finish_step(credit)
        if step >= 0.8 * steps:
            late.append(problem.policy(logits))
    return np.asarray(np.mean(late, axis=0))
