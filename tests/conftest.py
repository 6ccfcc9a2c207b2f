"""Small real models, built on the spot: a trained tokenizer with a chat template, and three architectures with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# As the command line does for its servers; before anything imports gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

if TYPE_CHECKING:  # heavy: imported by the fixtures that need them, so that light tests stay light
    from transformers import PreTrainedTokenizerFast

TEXT = [
    "Ann has 12 apples and buys 7 more. How many apples does she have now?",
    "12 + 7 = 19. The answer is 19. Which answer is better, A or B? Both are equally good: T.",
    "Grade the answer from 1 to 5. Yes or No. The quick brown fox jumps over the lazy dog 0123456789.",
] * 4

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

ModelMaker = Callable[..., Path]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def tiny_config(architecture: str, vocabulary: int, **changes: Any) -> Any:
    """A two-layer config of an architecture, by its model type: 'qwen2', 'llama', 'gpt_neox', ..."""
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
    }
    if architecture != "gpt_neox":
        sizes["num_key_value_heads"] = 2
    return AutoConfig.for_model(architecture, **{**sizes, **changes})


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> ModelMaker:
    """Writes a model directory: make_model('causal' | 'classification', architecture='qwen2', seed=0, edit=None, **config)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.set_num_threads(1)

    def make(kind: str, architecture: str = "qwen2", *, seed: int = 0, edit: Callable[[Any], None] | None = None, **changes: Any) -> Path:
        torch.manual_seed(seed)
        if kind == "classification":
            changes.setdefault("num_labels", 1)
        config = tiny_config(architecture, len(tokenizer), **changes)
        model = (AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # larger than the default, so that answers differ visibly
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
            if edit:
                edit(model)
        path = tmp_path_factory.mktemp(f"{architecture}-{kind}")
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="session")
def causal_model(make_model: ModelMaker) -> Path:
    return make_model("causal")


@pytest.fixture(scope="session")
def reward_model(make_model: ModelMaker) -> Path:
    return make_model("classification")
