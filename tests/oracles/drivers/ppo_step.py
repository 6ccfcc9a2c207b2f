"""One step of TRL 0.28's PPO on tiny models, watched: GAE and losses are written out in its `train`, so what it calls is recorded.

Completions have no stop token, hence one length: of a shorter one TRL places the score one position past the last kept token.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast, Qwen2Config
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

PARTS = ("old", "reference", "scores", "values", "advantages", "whitened", "new", "new_values", "policy_loss", "value_loss")
COMPLETIONS, PROMPT_TOKENS, COMPLETION_TOKENS, WORDS = 8, 3, 6, 40

Calls = dict[str, list[tuple[Any, Any]]]


@contextmanager
def recorded(*names: str) -> Iterator[Calls]:
    """(arguments, result) of every call that PPO's module makes to its functions of these names."""
    calls: Calls = defaultdict(list)

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            calls[name].append((args, result))
            return result

        return call

    watching: dict[str, Any] = {name: watched(name, getattr(ppo_trainer, name)) for name in names}
    with patch.multiple(ppo_trainer, **watching):
        yield calls


def _model(kind: Any) -> Any:
    """A float64 model of WORDS words: the padding token is one more, which cannot be sampled."""
    config = Qwen2Config(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=1,
    )
    made = kind.from_config(config).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def _trainer(folder: str) -> Any:
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)} | {"<pad>": WORDS}, unk_token="w0"))
    options = PPOConfig(
        output_dir=folder,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        seed=0,
        learning_rate=3e-3,
        total_episodes=COMPLETIONS,
        per_device_train_batch_size=COMPLETIONS,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=3,
        num_sample_generations=0,
        local_rollout_forward_batch_size=COMPLETIONS,
        response_length=COMPLETION_TOKENS,
        stop_token=None,
        missing_eos_penalty=None,
        kl_coef=0.05,
        gamma=0.97,
        lam=0.9,
        cliprange=0.2,
        cliprange_value=0.2,
        temperature=1.0,
    )
    prompts = np.random.default_rng(0).integers(1, WORDS, (COMPLETIONS, PROMPT_TOKENS)).tolist()
    return PPOTrainer(
        args=options,
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="w0"),
        model=_model(AutoModelForCausalLM),
        ref_model=_model(AutoModelForCausalLM),
        reward_model=_model(AutoModelForSequenceClassification),
        value_model=_model(AutoModelForSequenceClassification),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )


@cache
def ppo_step() -> dict[str, Tensor]:
    """The PARTS, float64[B, T] but `scores` [B]; `new`, `new_values` and the losses per token are those of the third pass."""
    functions = ("selective_log_softmax", "get_reward", "masked_whiten", "masked_mean", "forward")
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder)
        with patch("numpy.random.permutation", np.arange), recorded(*functions) as calls:
            trainer.train()
    old, reference, *passes = [result for _, result in calls["selective_log_softmax"]]
    (_, (values, _, _)), (_, (_, scores, _)) = calls["get_reward"]
    [((advantages, mask), whitened)] = calls["masked_whiten"]
    assert bool(mask.all())
    value_loss, _, policy_loss, _ = [arguments[0] for arguments, _ in calls["masked_mean"][-4:]]
    _, new_values = calls["forward"][-1][1]
    completion = slice(PROMPT_TOKENS - 1, -1)
    step: dict[str, Tensor] = {
        "old": old,
        "reference": reference,
        "scores": scores,
        "values": values[:, completion].squeeze(-1),
        "advantages": advantages,
        "whitened": whitened,
        "new": passes[-1],
        "new_values": new_values[:, completion].squeeze(-1),
        "policy_loss": policy_loss,
        "value_loss": value_loss / 2,
    }
    return {part: step[part].detach().double() for part in PARTS}
