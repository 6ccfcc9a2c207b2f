"""The three sets of items, cut into rounds that share nothing, so that no cache can serve one round from another.

A  questions with four model answers each: a short prompt shared by its group.
B  prompts of 1,000 tokens with 8 answers of 200, put together from running text: a long prompt shared by its group.
C  dialogues of very different lengths, each with a prompt of its own: nothing to share.

Each round has its own questions, prompts or dialogues; all contenders score the same items in the same round.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks._items import Question, read_questions
from benchmarks.scoring.contender import Item
from rewardmesh.client import message
from rewardmesh.demo.problems import generate
from rewardmesh.engine.text import dialogue_ids

PAIRS_FILE = "hh_harmless_pairs.jsonl.gz"
LONGEST = 2000
"""Tokens of the longest dialogue taken; the models take 2,048."""
_TURN = "\n\nAssistant:"


@dataclass(frozen=True)
class Sizes:
    """How many of each a round has. `prompt_tokens` and `answer_tokens` are B's, without the chat template's own tokens."""

    questions: int
    groups: int
    dialogues: int
    warm_up: int = 16
    prompt_tokens: int = 1000
    answers: int = 8
    answer_tokens: int = 200


@dataclass(frozen=True)
class Workload:
    """Items by round, and where they come from."""

    name: str
    title: str
    source: str
    rounds: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True)
class Text:
    """All text of a run: questions with answers for A, running text for B, (prompt, completion) pairs for C."""

    questions: Sequence[Question]
    passages: Sequence[str]
    dialogues: Sequence[tuple[str, str]]
    sources: tuple[str, str, str]


def read_text(data: Path | None, questions: int) -> Text:
    """Real text from the folder `data`, generated text without it."""
    asked, source = read_questions(data, questions)
    if data is None:
        problems = generate(4000, 1, "train")
        passages = [f"{problem.question} {problem.answer}" for problem in problems]
        return Text(asked, passages, _long_tailed(passages), (source, "generated text", "generated text of long-tailed lengths"))
    folder = data if data.is_dir() else data.parent
    with gzip.open(folder / PAIRS_FILE, "rt", encoding="utf-8") as lines:
        records = [json.loads(line)["chosen"] for line in lines]
    dialogues = [_split(record) for record in records]
    passages = [" ".join(record.split()) for record in records]
    return Text(
        asked, passages, dialogues, (source, "dialogues of human preference pairs, joined and cut", "dialogues of human preference pairs")
    )


def workload_a(tokenizer: Any, text: Text, sizes: Sizes, rounds: int) -> Workload:
    """Questions with four answers: the questions are dealt to the rounds in turn."""
    dealt = [text.questions[number::rounds][: sizes.questions] for number in range(rounds)]
    parts = [_items(tokenizer, [(question.text, question.answers) for question in part]) for part in dealt]
    return Workload("A", f"{len(dealt[0])} questions × 4 answers", text.sources[0], tuple(parts))


def workload_b(tokenizer: Any, text: Text, sizes: Sizes, rounds: int) -> Workload:
    """Prompts and answers of exact token counts, made of consecutive words of the text."""
    words = (word for passage in text.passages for word in passage.split())
    parts = []
    for _ in range(rounds):
        groups = []
        for _ in range(sizes.groups):
            prompt = exactly(tokenizer, words, sizes.prompt_tokens)
            groups.append((prompt, tuple(exactly(tokenizer, words, sizes.answer_tokens) for _ in range(sizes.answers))))
        parts.append(_items(tokenizer, groups))
    title = f"{sizes.groups} prompts of {sizes.prompt_tokens:,} tokens × {sizes.answers} answers of {sizes.answer_tokens}"
    return Workload("B", title, text.sources[1], tuple(parts))


def workload_c(tokenizer: Any, text: Text, sizes: Sizes, rounds: int) -> Workload:
    """Dialogues, dealt to the rounds in a random order; at least `sizes.warm_up` are left for `warm_up`."""
    order = random.Random(0).sample(range(len(text.dialogues)), len(text.dialogues))
    chosen = [text.dialogues[place] for place in order[sizes.warm_up * 4 :]]
    parts = [
        tuple(
            item
            for item in _items(tokenizer, [(p, (c,)) for p, c in chosen[number::rounds][: sizes.dialogues]])
            if len(item.ids) <= LONGEST
        )
        for number in range(rounds)
    ]
    return Workload("C", f"{sizes.dialogues} dialogues, nothing shared", text.sources[2], tuple(parts))


def warm_up(tokenizer: Any, text: Text, sizes: Sizes) -> tuple[Item, ...]:
    """Items that no workload has, to be scored before anything is timed."""
    order = random.Random(0).sample(range(len(text.dialogues)), len(text.dialogues))
    chosen = [text.dialogues[place] for place in order[: sizes.warm_up * 4]]
    items = _items(tokenizer, [(prompt, (completion,)) for prompt, completion in chosen])
    return tuple(item for item in items if len(item.ids) <= LONGEST)[: sizes.warm_up]


def renamed(items: Sequence[Item], tokenizer: Any, mark: str) -> tuple[Item, ...]:
    """The same items with a mark before their prompts, so that they share no prefix with what was scored before."""
    texts = [(replace(item, prompt=f"({mark}) {item.prompt}")) for item in items]
    return tuple(replace(item, ids=_ids(tokenizer, item.prompt, item.completion)) for item in texts)


def exactly(tokenizer: Any, words: Iterator[str], count: int) -> str:
    """Text of exactly `count` tokens, of consecutive words; a word that would be too long at the end is passed over.

    Raises:
        ValueError: the words ran out.
    """
    taken: list[str] = []
    used = 0
    for word in words:
        cost = len(tokenizer(word if not taken else f" {word}")["input_ids"])
        if used + cost <= count:
            taken.append(word)
            used += cost
        if used == count:
            text = " ".join(taken)
            if len(tokenizer(text)["input_ids"]) != count:
                raise ValueError("the tokenizer does not split text at spaces")
            return text
    raise ValueError(f"the text is too short for another {count} tokens")


def _items(tokenizer: Any, groups: Sequence[tuple[str, Sequence[str]]]) -> tuple[Item, ...]:
    return tuple(
        Item(number, prompt, completion, _ids(tokenizer, prompt, completion))
        for number, (prompt, completions) in enumerate(groups)
        for completion in completions
    )


def _ids(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    return dialogue_ids(tokenizer, [message("user", prompt)], completion)


def _split(record: str) -> tuple[str, str]:
    """The dialogue up to the last answer, and that answer."""
    prompt, _, completion = record.rpartition(_TURN)
    return prompt.strip(), completion.strip()


def _long_tailed(passages: Sequence[str]) -> list[tuple[str, str]]:
    """Dialogues of one to twelve passages, short ones far more often."""
    chance = random.Random(0)
    source = iter(passages)
    found = []
    for prompt in source:
        more = min(12, int(chance.paretovariate(1.2)))
        completion = " ".join(text for _, text in zip(range(more), source, strict=False))
        if completion:
            found.append((prompt, completion))
    return found
