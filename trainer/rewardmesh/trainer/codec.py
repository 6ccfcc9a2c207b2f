"""The policy's own tokenizer, for the few texts that the trainer itself turns into tokens: prompts it continues, and given answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardmesh.client.messages import messages
from rewardmesh.engine.text import prompt_ids


class Codec:
    """Text to token ids and back.

    Args:
        tokenizer: of the policy.
        model: of the policy; its configuration may name further end-of-sequence tokens.

    Attributes:
        end_ids: tokens that end a completion, ascending; the tokenizer's own is `end_id`.
        context: most tokens of prompt and completion.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._tokenizer = tokenizer
        configured = getattr(model.config, "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        self.end_id: int | None = tokenizer.eos_token_id
        self.end_ids = tuple(sorted({int(id_) for id_ in (*listed, self.end_id) if id_ is not None}))
        self.context = int(getattr(model.config, "max_position_embeddings", 2**31 - 1))

    def prompt(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        """Token ids of a dialogue that an answer follows, as the generator reads it."""
        return prompt_ids(self._tokenizer, messages(turns))

    def encode(self, text: str) -> list[int]:
        """Token ids of a part of an answer, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def answer(self, text: str) -> list[int]:
        """Token ids of a whole answer, with the token that ends it."""
        return [*self.encode(text), *([] if self.end_id is None else [self.end_id])]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens, without special ones."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
