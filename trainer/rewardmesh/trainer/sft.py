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


@dataclass(frozen=True)
class SFTResult:
    """What came of it: mean loss (nats a token) at the end, examples used and left out for their length."""

    loss: float
    examples: int
    left_out: int


Tokens = tuple[list[int], list[int]]


def tokenise(tokenizer: Any, prompt: Any, completion: str) -> Tokens:
    """(prompt ids, completion ids) as generation will see them: chat template, then the answer and the end-of-sequence token."""
    ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return prompt_ids(tokenizer, messages(prompt)), [*ids, tokenizer.eos_token_id]


def finetune(model: Any, pairs: Sequence[Tokens], config: SFTConfig, on_step: OnFit | None = None) -> SFTResult:
    """Minimise -log p(completion | prompt), mean over the completion tokens of a batch; trains the model in place.

    Raises:
        ConfigError: no example is short enough.
        TrainingFailed: the loss is not finite.
    """
    kept = [(prompt, completion) for prompt, completion in pairs if len(prompt) + len(completion) <= config.max_tokens]
    if not kept:
        raise ConfigError(f"max_tokens: none of the {len(pairs)} examples has at most {config.max_tokens} tokens")
    packed = not why_not_packed(model)

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        states, targets, _, _ = completion_states(model, [kept[i] for i in batch], packed=packed)
        return -differentiable_log_probs(model, states, targets).mean()

    loss = fit(model, len(kept), loss_of, config, lengths=[len(p) + len(c) for p, c in kept], on_step=on_step)
    return SFTResult(loss, len(kept), len(pairs) - len(kept))


def read_sft_file(path: Path, tokenizer: Any) -> list[Tokens]:
    """Examples of a JSONL file with the fields prompt (string or messages) and completion.

    Raises:
        ConfigError: naming file and line.
    """
    return [tokenise(tokenizer, row["prompt"], row["completion"]) for row in read_examples(path, ("completion",))]
