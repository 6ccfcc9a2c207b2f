"""Reward models from preference pairs: Bradley-Terry (1952) likelihood as in Ouyang et al. 2022 (arXiv 2203.02155), equation 1.

    loss = -log sigmoid(r(x, chosen) - r(x, rejected)) + centre * (r(x, chosen) + r(x, rejected))^2

The second term (Eisenstein et al. 2023, arXiv 2312.09244) keeps rewards around zero, so that `sigmoid` with centre 0 means something.
Chosen and rejected share their prompt in the packed forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from rewardmesh.client import messages
from rewardmesh.engine.forward import classification_scores, why_not_packed
from rewardmesh.engine.text import dialogue_ids
from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.examples import read_examples
from rewardmesh.trainer.fitting import FitConfig, OnFit, fit


class RewardModelConfig(FitConfig):
    """Options of reward-model training."""

    centre: float = Field(default=0.01, ge=0, description="weight of the term that keeps rewards around zero")
    max_tokens: int = Field(default=512, ge=2, description="pairs with a longer side are left out, and counted")
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1, description="share of the pairs kept back for the accuracy")


@dataclass(frozen=True)
class RewardModelResult:
    """What came of it: loss at the end, share of held-out pairs in the right order (NaN without any), pairs used and left out."""

    loss: float
    accuracy: float
    pairs: int
    left_out: int


Pair = tuple[list[int], list[int]]


def tokenise(tokenizer: Any, prompt: Any, chosen: str, rejected: str) -> Pair:
    """Token ids of both sides, as the reward service will read them."""
    turns = messages(prompt)
    return dialogue_ids(tokenizer, turns, chosen), dialogue_ids(tokenizer, turns, rejected)


def train_reward_model(model: Any, pairs: Sequence[Pair], config: RewardModelConfig, on_step: OnFit | None = None) -> RewardModelResult:
    """Train a sequence-classification model with one output in place.

    Raises:
        ConfigError: no pair is short enough.
        TrainingFailed: the loss is not finite.
    """
    kept = [pair for pair in pairs if max(map(len, pair)) <= config.max_tokens]
    back = int(len(kept) * config.heldout_fraction)
    train, heldout = kept[back:], kept[:back]
    if not train:
        raise ConfigError(f"max_tokens: none of the {len(pairs)} pairs has at most {config.max_tokens} tokens on both sides")
    packed = not why_not_packed(model)

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        scores, _ = classification_scores(model, [side for i in batch for side in train[i]], packed=packed)
        chosen, rejected = scores[0::2, 0], scores[1::2, 0]
        likelihood = torch.nn.functional.logsigmoid(chosen - rejected).mean()
        return config.centre * ((chosen + rejected) ** 2).mean() - likelihood

    loss = fit(model, len(train), loss_of, config, lengths=[len(a) + len(b) for a, b in train], on_step=on_step)
    return RewardModelResult(loss, pair_accuracy(model, heldout), len(train), len(pairs) - len(kept))


def pair_accuracy(model: Any, pairs: Sequence[Pair], batch: int = 64) -> float:
    """Share of pairs whose chosen side scores higher; NaN without pairs."""
    right = 0
    packed = not why_not_packed(model)
    with torch.inference_mode():
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            scores, _ = classification_scores(model, [side for pair in part for side in pair], packed=packed)
            right += int((scores[0::2, 0] > scores[1::2, 0]).sum())
    return right / len(pairs) if pairs else float("nan")


def read_preference_file(path: Path, tokenizer: Any) -> list[Pair]:
    """Pairs of a JSONL file with the fields prompt (string or messages), chosen and rejected.

    Raises:
        ConfigError: naming file and line.
    """
    return [tokenise(tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in read_examples(path, ("chosen", "rejected"))]
