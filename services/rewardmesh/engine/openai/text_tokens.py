"""A tokenizer for models whose own is unknown: text to ids and back without loss, so that a dialogue survives the way through ids.

Services speak to engines in token ids. A chat endpoint takes text and keeps its tokenizer to itself, so here ids stand for letters and
short words: one for each Unicode character, one for each word of up to five ASCII letters (every label of a judge is one of them), one
for each role. Their number says little about what the endpoint counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONGEST_WORD = 5

_BASE = len(LETTERS) + 1
_FIRST_ROLE = 0x110000
_FIRST_WORD = _FIRST_ROLE + len(ROLES)
_MARKERS = {f"<|{role}|>": _FIRST_ROLE + number for number, role in enumerate(ROLES)}
_PIECE = re.compile(rf"<\|(?:{'|'.join(ROLES)})\|>|[A-Za-z]{{1,{LONGEST_WORD}}}|.", re.DOTALL)
_DIGITS = {letter: number for number, letter in enumerate(LETTERS, start=1)}


class TextTokenizer:
    """Has what services use of a transformers tokenizer."""

    chat_template = "roles"
    unk_token_id = None
    eos_token_id = None
    all_special_tokens = tuple(_MARKERS)
    added_tokens_decoder: Mapping[int, Any] = {}

    def __len__(self) -> int:
        return int(_FIRST_WORD + _BASE**LONGEST_WORD)

    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool = False, return_attention_mask: bool = False
    ) -> dict[str, Any]:
        """Ids of a text, or of each of several; it has no special tokens to add and masks nothing."""
        return {"input_ids": _ids(text) if isinstance(text, str) else [_ids(each) for each in text]}

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool, return_dict: bool = False
    ) -> Any:
        """A dialogue as one text, each message after the marker of its role, or its ids."""
        text = "".join(f"<|{message['role']}|>{message['content']}" for message in messages)
        text += "<|assistant|>" if add_generation_prompt else ""
        return _ids(text) if tokenize else text

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return "".join(_text(int(token)) for token in ids if not (skip_special_tokens and _is_role(int(token))))

    def messages(self, ids: Iterable[int]) -> list[dict[str, str]]:
        """The dialogue that `apply_chat_template` made ids of, without the turn that is to be written.

        Raises:
            ValueError: the ids begin with no role.
        """
        turns: list[tuple[str, list[int]]] = []
        for token in map(int, ids):
            if _is_role(token):
                turns.append((ROLES[token - _FIRST_ROLE], []))
            elif not turns:
                raise ValueError("the ids are no dialogue: they begin with no role")
            else:
                turns[-1][1].append(token)
        if turns and turns[-1] == ("assistant", []):
            turns.pop()
        return [{"role": role, "content": self.decode(content)} for role, content in turns]


def _is_role(token: int) -> bool:
    return _FIRST_ROLE <= token < _FIRST_WORD


def _ids(text: str) -> list[int]:
    return [_id(piece) for piece in _PIECE.findall(text)]


def _id(piece: str) -> int:
    if piece in _MARKERS:
        return _MARKERS[piece]
    if piece[0] not in _DIGITS:
        return ord(piece)
    number = 0
    for letter in piece:
        number = number * _BASE + _DIGITS[letter]
    return _FIRST_WORD + number


def _text(token: int) -> str:
    if token < _FIRST_ROLE:
        return chr(token)
    if _is_role(token):
        return f"<|{ROLES[token - _FIRST_ROLE]}|>"
    number, letters = token - _FIRST_WORD, ""
    while number:
        number, digit = divmod(number, _BASE)
        letters = LETTERS[digit - 1] + letters
    return letters
