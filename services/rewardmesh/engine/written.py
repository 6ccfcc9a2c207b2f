"""From sampled tokens to texts, for every engine that gives tokens: stop texts, control tokens, what a text cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.writing import WritingOptions, Written

MORE_TOKENS = 8
"""Tokens without text (control tokens, parts of a character) that may lie within a stop text."""

Ends = Callable[[list[int]], bool]


def sampling_options(options: WritingOptions, eos_ids: tuple[int, ...]) -> SamplingOptions:
    """How tokens are drawn for texts."""
    return SamplingOptions(options.n, options.temperature, options.top_p, 0, options.max_tokens, options.seed, eos_ids)


def with_room(prompts: Sequence[TokenIds], context: int) -> list[list[int]]:
    """The prompts as lists, each of which leaves room for one token; ValueError else: the service has told its caller TOO_LONG before."""
    longest = max(map(len, prompts))
    if longest >= context:
        raise ValueError(f"prompts: one has {longest} tokens, which leaves no room to write in a context of {context}")
    return [[int(token) for token in ids] for ids in prompts]


def stop_rule(tokenizer: Any, stop: Sequence[str]) -> Ends | None:
    """Whether a text ends with its last token; looks at the end only, so that long texts are not decoded again for each token."""
    if not stop:
        return None
    if not all(stop):
        raise ValueError("stop: a text that ends another must not be empty")
    looked_at = max(len(text.encode()) for text in stop) + MORE_TOKENS

    def ends(ids: list[int]) -> bool:
        tail = tokenizer.decode(ids[-looked_at:], skip_special_tokens=True)
        return any(text in tail for text in stop)

    return ends


def cut(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of the texts that end it."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


class Texts:
    """Takes the completions of a call as they end, in any order.

    Args:
        prompts: tokens of each prompt.
        stop: cut off, with what follows.
    """

    def __init__(self, tokenizer: Any, prompts: Sequence[int], n: int, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._n = n
        self._stop = stop
        self._found: dict[tuple[int, int], Written] = {}

    def add(self, sampled: Sampled) -> None:
        """One completion."""
        whole = self._tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
        text = cut(whole, self._stop)
        finish = "stop" if sampled.finish == "length" and len(text) < len(whole) else sampled.finish
        read = 0 if sampled.index else self._prompts[sampled.prompt]
        self._found[sampled.prompt, sampled.index] = Written(text, finish, read, len(sampled.token_ids))

    def of(self, prompt: int) -> list[Written]:
        """The texts of a prompt, all of which have been added, in the order of their index."""
        return [self._found[prompt, index] for index in range(self._n)]

    def all(self) -> list[list[Written]]:
        """Those of all prompts."""
        return [self.of(prompt) for prompt in range(len(self._prompts))]
