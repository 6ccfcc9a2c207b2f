"""Two problems small enough that every optimum is known: a bandit with 8 actions, and a tree of two tokens.

A policy is a table of logits; an outcome is a whole completion, of one token in the bandit and of two in the tree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
BETA = 0.5


def distance(left: Floats, right: Floats) -> float:
    """Total variation."""
    return float(np.abs(left - right).sum() / 2)


class Problem(ABC):
    """`reward` and `reference` float64[outcomes], the reference policy's probabilities; `tokens` int32[outcomes, T]."""

    reward: Floats
    reference: Floats
    tokens: npt.NDArray[np.int32]
    reference_log_probs: npt.NDArray[np.float32]
    """[outcomes, T]"""

    @abstractmethod
    def start(self) -> list[Tensor]:
        """The reference policy's logits, leaves to train."""

    @abstractmethod
    def log_probs(self, logits: list[Tensor]) -> Tensor:
        """float64[outcomes, T]: of every outcome's tokens."""

    def policy(self, logits: list[Tensor]) -> Floats:
        """float64[outcomes] probabilities."""
        return self.log_probs(logits).detach().sum(1).exp().numpy()

    def gibbs(self, reward: Floats, beta: float = BETA) -> Floats:
        """pi_ref exp(reward / beta) / Z: the optimum of reward - beta KL(pi || pi_ref)."""
        weights = self.reference * np.exp(reward / beta)
        return np.asarray(weights / weights.sum())


class Bandit(Problem):
    """Eight actions of one token.

    `preferences` float64[8, 8]: better actions tend to win, and each tends to beat the three after it in a circle, which no reward
    explains. `failure` float64[8]: probability that an action gets no score: the better, the likelier; 49% under the reference.
    """

    actions = 8

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        # Positive and close together: the Gibbs policy stays spread out (a collapse is then far from it), and 0 is worse than any reward.
        self.reward = rng.permutation(np.linspace(0.2, 1.4, self.actions))
        self.reference = rng.dirichlet(np.full(self.actions, 10.0))
        self.tokens = np.arange(self.actions, dtype=np.int32)[:, None]
        self.reference_log_probs = np.log(self.reference).astype(np.float32)[:, None]
        ahead = (np.arange(self.actions)[None, :] - np.arange(self.actions)[:, None]) % self.actions
        circle = np.where((ahead > 0) & (ahead < 4), rng.uniform(1, 3, size=ahead.shape), 0.0)
        self.preferences: Floats = 1 / (1 + np.exp(-(circle - circle.T) - (self.reward[:, None] - self.reward[None, :])))
        failure = 1 / (1 + np.exp(-3 * (self.reward - self.reward.mean())))
        self.failure: Floats = failure * 0.49 / float(self.reference @ failure)

    def start(self) -> list[Tensor]:
        return [torch.tensor(np.log(self.reference), requires_grad=True)]

    def log_probs(self, logits: list[Tensor]) -> Tensor:
        return logits[0].log_softmax(0).unsqueeze(1)

    def forward_kl_optimum(self, beta: float = BETA) -> Floats:
        """beta pi_ref / (lambda - reward), lambda such that it sums to 1: the optimum of reward - beta KL(pi_ref || pi)."""
        low, high = float(self.reward.max()), float(self.reward.max()) + beta
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if float((beta * self.reference / (middle - self.reward)).sum()) > 1 else (low, middle)
        policy = beta * self.reference / (high - self.reward)
        return np.asarray(policy / policy.sum())

    def regularised_nash(self, mixture: float = 0.0, beta: float = BETA) -> Floats:
        """The fixed point pi = pi_ref exp(P(. beats mu) / beta) / Z, mu the opponent pi^(1 - mixture) pi_ref^mixture / Z."""
        policy = self.reference
        for _ in range(5000):
            opponent = policy ** (1 - mixture) * self.reference**mixture
            policy = 0.9 * policy + 0.1 * self.gibbs(self.preferences @ opponent / opponent.sum(), beta)
        return policy

    def standardised_gibbs(self, beta: float) -> Floats:
        """The fixed point pi = pi_ref exp(reward / (beta sigma)) / Z, sigma the reward's standard deviation under pi; for beta >= 2."""
        policy = self.reference
        for _ in range(5000):
            spread = float(np.sqrt(policy @ self.reward**2 - (policy @ self.reward) ** 2))
            policy = 0.9 * policy + 0.1 * self.gibbs(self.reward / spread, beta)
        return policy


class Tree(Problem):
    """Three first tokens, three second ones after each.

    The best completion is rare under the reference: to go for it costs KL in the second token, which the first token must be told.
    """

    def __init__(self) -> None:
        self.first: Floats = np.array([0.4, 0.35, 0.25])
        self.second: Floats = np.array([[0.02, 0.49, 0.49], [0.3, 0.4, 0.3], [0.6, 0.2, 0.2]])
        self.reward = np.array([[2.0, 0.0, 0.2], [1.1, 0.9, 1.0], [0.3, 0.6, 0.4]]).ravel()
        self.tokens = np.array([(i, 3 + j) for i in range(3) for j in range(3)], dtype=np.int32)
        self.reference = (self.first[:, None] * self.second).ravel()
        self.reference_log_probs = np.stack([np.repeat(np.log(self.first), 3), np.log(self.second).ravel()], axis=1).astype(np.float32)

    def start(self) -> list[Tensor]:
        return [torch.tensor(np.log(table), requires_grad=True) for table in (self.first, self.second)]

    def log_probs(self, logits: list[Tensor]) -> Tensor:
        first, second = logits[0].log_softmax(0), logits[1].log_softmax(1)
        return torch.stack([first.repeat_interleave(3), second.flatten()], dim=1)


BANDIT, TREE = Bandit(), Tree()
