"""Models from nothing: a byte-level tokenizer trained on the spot and a Qwen2-shaped model with random weights.

For work without a model hub; a real run starts from a trained model directory instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

SPECIAL = ("<pad>", "<eos>", "<user>", "<assistant>", "<system>", "<tool>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message.role + '>' + message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


class Shape(BaseModel):
    """Sizes of a Qwen2-shaped model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = Field(default=256, ge=8, description="width")
    layers: int = Field(default=4, ge=1)
    intermediate: int = Field(default=768, ge=8, description="width of the feed-forward layers")
    heads: int = Field(default=4, ge=1)
    context: int = Field(default=512, ge=16, description="longest input in tokens")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; digits are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False, padding_side="left"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def new_model(kind: Literal["causal", "classification"], tokenizer: Any, shape: Shape, seed: int) -> Any:
    """A model with random weights for a tokenizer; its embeddings are tied to its language-model head."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    return Qwen2ForCausalLM(config) if kind == "causal" else Qwen2ForSequenceClassification(config)
