"""From messages to the token ids of a model: its own chat template, its own tokenizer, nothing cut silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant", pb.ROLE_TOOL: "tool"}


def chat(messages: Sequence[pb.Message]) -> list[dict[str, str]]:
    """Messages as transformers' chat templates take them."""
    return [{"role": _ROLES[m.role], "content": m.content, **({"name": m.name} if m.name else {})} for m in messages]


def prompt_ids(tokenizer: Any, messages: Sequence[pb.Message]) -> list[int]:
    """Token ids of a dialogue that an answer follows."""
    if tokenizer.chat_template is None:
        return encode(tokenizer, "\n".join(m.content for m in messages) + "\n")
    ids: list[int] = tokenizer.apply_chat_template(chat(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    return ids


def dialogue_ids(tokenizer: Any, messages: Sequence[pb.Message], completion: str) -> list[int]:
    """Token ids of a dialogue with its answer, as reward models read it."""
    if tokenizer.chat_template is None:
        return encode(tokenizer, "\n".join(m.content for m in messages) + "\n" + completion)
    turns = [*chat(messages), {"role": "assistant", "content": completion}]
    ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=False, tokenize=True, return_dict=False)
    return ids


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text, with the special tokens the tokenizer adds by itself."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def fit(ids: Sequence[int], limit: int, policy: Literal["refuse", "truncate_prompt"], keep: int = 0) -> tuple[list[int], bool] | pb.Absence:
    """Make token ids fit the model's context by the declared policy.

    Args:
        ids: the whole input.
        limit: longest input in tokens.
        policy: refuse, or cut the oldest tokens.
        keep: tokens at the end that must stay (the completion).

    Returns:
        (ids, whether they were cut), or an absence TOO_LONG.
    """
    if len(ids) <= limit:
        return list(ids), False
    if policy == "refuse":
        return absence(
            pb.ABSENCE_REASON_TOO_LONG, f"{len(ids)} tokens, the model takes {limit}; the server's overlength policy is to refuse"
        )
    if keep >= limit:
        return absence(pb.ABSENCE_REASON_TOO_LONG, f"the completion alone has {keep} tokens, the model takes {limit}")
    return list(ids[-limit:]), True
