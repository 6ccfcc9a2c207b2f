"""What is scored: questions with four answers each, and a model with random weights and a tokenizer trained on them.

Real ones are GSM8K questions with answers written by models (`gsm8k_model_answers.jsonl`: question, answers[].solution); without that
file, generated problems with four varied answers stand in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rewardmesh.demo.problems import Problem, generate

ANSWERS = 4
REAL_FILE = "gsm8k_model_answers.jsonl"
VOCABULARY = 8192
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Question:
    """A question with its answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the default has 15.7 million parameters, 12.6 of them outside the embedding."""

    width: int = 384
    layers: int = 8
    heads: int = 6
    key_heads: int = 2
    feed_forward: int = 1024


def read_questions(data: Path | None, count: int) -> tuple[list[Question], str]:
    """`count` questions and where they come from; `data` is the file of real ones, its folder, or None.

    Raises:
        ValueError: the file has too few questions with four answers.
    """
    if data is None:
        return [_varied(problem) for problem in generate(count, 0, "train")], "generated arithmetic word problems, 4 varied answers each"
    file = data / REAL_FILE if data.is_dir() else data
    questions = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            answers = _different([answer["solution"] for answer in record["answers"] if answer["solution"].strip()])
            if len(answers) >= ANSWERS:
                questions.append(Question(record["question"], tuple(answers[:ANSWERS])))
            if len(questions) == count:
                return questions, "GSM8K questions, 4 model answers each"
    raise ValueError(f"{file}: has {len(questions)} questions with {ANSWERS} answers, {count} are wanted")


def write_model(
    folder: Path,
    questions: Sequence[Question],
    shape: Shape,
    dtype: str = "float32",
    kind: Literal["classification", "causal"] = "classification",
) -> int:
    """Write a Qwen2-shaped model with random weights and its tokenizer; returns its number of parameters.

    A reward model, or a causal one, whose head is its embedding (as of the small models of that family).
    """
    tokenizer = _train_tokenizer([text for question in questions for text in (question.text, *question.answers)])
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=2048,
        num_labels=1,
        tie_word_embeddings=kind == "causal",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    family = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    model: Any = family.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def _train_tokenizer(texts: Sequence[str]) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _different(answers: Sequence[str]) -> list[str]:
    """The different answers first; then those that repeat one, with a full stop more each time: what is scored twice is scored once."""
    found = dict.fromkeys(answers)
    repeated = [answer for place, answer in enumerate(answers) if answer in answers[:place]]
    return [*found, *(answer + "." * number for number, answer in enumerate(repeated, 1))]


def _varied(problem: Problem) -> Question:
    """The worked answer, one with a mistake in every line, a wordy one and a bare one: four lengths."""
    wrong = "\n".join(f"{step.text}0" for step in problem.steps)
    wordy = "\n".join(f"Step {number}: first we read the question again. {step.text}" for number, step in enumerate(problem.steps, 1))
    final = f"#### {problem.final}"
    return Question(problem.question, (problem.answer, f"{wrong}\n{final}", f"{wordy}\nSo the answer is {problem.final}.\n{final}", final))
