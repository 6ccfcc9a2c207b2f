"""Checks a GenerateRequest and turns it into sampling options and token ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewardmesh.engine.sampling import SamplingOptions
from rewardmesh.engine.text import prompt_ids
from rewardmesh.serving.errors import invalid_argument, unimplemented
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import generation_service_pb2 as api


def sampling_options(request: api.GenerateRequest, eos_ids: tuple[int, ...], default_max_tokens: int) -> SamplingOptions:
    """Options of a call.

    Raises:
        CallError: INVALID_ARGUMENT naming the field, UNIMPLEMENTED for a mixture.
    """
    if request.HasField("mixture"):
        raise unimplemented("mixture (sampling from two policies)")
    temperature = request.temperature if request.HasField("temperature") else 1.0
    top_p = request.top_p if request.HasField("top_p") else 1.0
    if not 0 <= temperature < float("inf"):
        raise invalid_argument("temperature", f"{temperature} must be at least 0 and finite")
    if not 0 < top_p <= 1:
        raise invalid_argument("top_p", f"{top_p} must lie in (0, 1]")
    for field in ("n", "top_k", "max_tokens"):
        if getattr(request, field) < 0:
            raise invalid_argument(field, "must not be negative")
    if (top_p < 1 or request.top_k) and temperature > 0 and not request.allow_truncated_support:
        raise invalid_argument(
            "top_p" if top_p < 1 else "top_k",
            "truncates the support, so that log-probabilities are biased for training; set allow_truncated_support to accept that",
        )
    return SamplingOptions(
        n=request.n or 1,
        temperature=temperature,
        top_p=top_p,
        top_k=request.top_k,
        max_tokens=request.max_tokens or default_max_tokens,
        seed=request.seed,
        eos_ids=eos_ids,
    )


def tokenise(prompt: api.GenerationPrompt, tokenizer: Any, vocabulary: int, room: int) -> list[int] | pb.Absence:
    """Token ids of a prompt, or why it cannot be continued.

    Args:
        room: longest prompt that leaves space for one token.
    """
    if prompt.HasField("token_ids"):
        if len(prompt.token_ids.data) != 4 * prompt.token_ids.length:
            return absence(
                pb.ABSENCE_REASON_INVALID_INPUT,
                f"token_ids: states {prompt.token_ids.length} values, holds {len(prompt.token_ids.data)} bytes",
            )
        ids: list[int] = np.frombuffer(prompt.token_ids.data, "<i4").tolist()
    elif any(message.role not in pb.Role.values() or message.role == pb.ROLE_UNSPECIFIED for message in prompt.messages):
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "messages: a role is unset or unknown")
    else:
        ids = prompt_ids(tokenizer, prompt.messages) if prompt.messages else []
    if not ids:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "messages: is empty; give messages or token_ids")
    if min(ids) < 0 or max(ids) >= vocabulary:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"token_ids: an id lies outside the vocabulary of {vocabulary}")
    if len(ids) > room:
        return absence(pb.ABSENCE_REASON_TOO_LONG, f"{len(ids)} prompt tokens leave no room for an answer; the policy takes {room + 1}")
    return ids
