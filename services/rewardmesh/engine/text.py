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
    return encode(tokenizer, [render(tokenizer, messages)])[0]


def dialogue_ids(tokenizer: Any, messages: Sequence[pb.Message], completion: str) -> list[int]:
    """Token ids of a dialogue with its answer, as reward models read it."""
    return encode(tokenizer, [render(tokenizer, messages, completion)])[0]


def render(tokenizer: Any, messages: Sequence[pb.Message], completion: str | None = None) -> str:
    """The text of a dialogue by the model's chat template, with its answer, or ready for one where it is None.

    Raises:
        jinja2.TemplateError: the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        return "\n".join(m.content for m in messages) + "\n" + (completion or "")
    turns = [*chat(messages), *([] if completion is None else [{"role": "assistant", "content": completion}])]
    text: str = tokenizer.apply_chat_template(turns, add_generation_prompt=completion is None, tokenize=False)
    return text


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered texts; a template has written the special tokens, without one the tokenizer adds its own."""
    if not texts:
        return []
    special = tokenizer.chat_template is None
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False)["input_ids"]
    return found


def encode_with_offsets(tokenizer: Any, text: str, *, special: bool | None = None) -> list[tuple[int, int]]:
    """Code points [start, end) that each token of a text writes; (0, 0) for special tokens that the tokenizer adds.

    Args:
        special: whether it adds them; None as in `encode`.
    """
    adds = tokenizer.chat_template is None if special is None else special
    found: list[tuple[int, int]] = tokenizer(text, add_special_tokens=adds, return_offsets_mapping=True)["offset_mapping"]
    return found


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
