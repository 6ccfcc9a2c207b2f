"""Supervised fine-tuning of a policy on worked answers: the start of every run, with the same packed forward as everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from rewardmesh.client import messages
from rewardmesh.engine.forward import why_not_packed
from rewardmesh.engine.log_probs import completion_states, differentiable_log_probs
from rewardmesh.engine.text import prompt_ids
from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.examples import read_examples
from rewardmesh.trainer.fitting import FitConfig, OnFit, fit


class SFTConfig(FitConfig):
    """Options of supervised fine-tuning."""

    max_tokens: int = Field(default=512, ge=2, description="longer examples are left out, and counted")
    prompt_weight: float = Field(
        default=0.0, ge=0, le=1, description="weight of prompt tokens in the loss; some helps a model that starts from random weights"
    )


@dataclass(frozen=True)
class SFTResult:
    """What came of it: loss (nats a completion token) at the end, examples used and left out for their length."""

    loss: float
    examples: int
    left_out: int


Tokens = tuple[list[int], list[int]]


def tokenise(tokenizer: Any, prompt: Any, completion: str) -> Tokens:
    """(prompt ids, completion ids) as generation will see them: chat template, then the answer and the end-of-sequence token."""
    ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return prompt_ids(tokenizer, messages(prompt)), [*ids, tokenizer.eos_token_id]


def finetune(model: Any, pairs: Sequence[Tokens], config: SFTConfig, on_step: OnFit | None = None) -> SFTResult:
    """Minimise the sum over tokens of -weight * log p(token | before), weight 1 on completions and `prompt_weight` on prompts.

    A batch's sum is divided by what a batch holds on average, not by its own token count: short completions would else weigh more.
    Trains the model in place.

    Raises:
        ConfigError: no example is short enough.
        TrainingFailed: the loss is not finite.
    """
    kept = [(prompt, completion) for prompt, completion in pairs if len(prompt) + len(completion) <= config.max_tokens]
    if not kept:
        raise ConfigError(f"max_tokens: none of the {len(pairs)} examples has at most {config.max_tokens} tokens")
    packed = not why_not_packed(model)
    mean_tokens = sum(len(completion) for _, completion in kept) / len(kept)

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        examples = [kept[i] for i in batch]
        if config.prompt_weight:
            # Every token but the first is then a target.
            weights = torch.cat([_weights(len(prompt) - 1, len(completion), config.prompt_weight) for prompt, completion in examples])
            examples = [(prompt[:1], [*prompt[1:], *completion]) for prompt, completion in examples]
        states, targets, _, _ = completion_states(model, examples, packed=packed)
        losses = -differentiable_log_probs(model, states, targets)
        if config.prompt_weight:
            losses = losses * weights.to(losses.device)
        return losses.sum() / (len(batch) * mean_tokens)

    loss = fit(model, len(kept), loss_of, config, lengths=[len(p) + len(c) for p, c in kept], on_step=on_step)
    return SFTResult(loss, len(kept), len(pairs) - len(kept))


def _weights(prompt: int, completion: int, prompt_weight: float) -> torch.Tensor:
    return torch.cat([torch.full((prompt,), prompt_weight), torch.ones(completion)])


def read_sft_file(path: Path, tokenizer: Any) -> list[Tokens]:
    """Examples of a JSONL file with the fields prompt (string or messages) and completion.

    Raises:
        ConfigError: naming file and line.
    """
    return [tokenise(tokenizer, row["prompt"], row["completion"]) for row in read_examples(path, ("completion",))]
