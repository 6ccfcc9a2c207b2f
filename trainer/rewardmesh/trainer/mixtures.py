"""Sample from a combination of two policies, token by token, with logits that the log-prob service streams.

The distribution of a token is softmax((a h_1 + b h_2) / T), where h are the two policies' logits: with a + b = 1 the geometric mixture
of their distributions at temperature T, an extrapolation where one of the two is negative. What is returned are the log-probs of that very
distribution, so that importance weights are right. The whole vocabulary crosses the wire once a token and policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rewardmesh.client import AsyncClient
from rewardmesh.trainer.samples import FloatArray
from rewardmesh.v1.common_pb2 import ModelRef

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """One completion.

    Attributes:
        token_ids: with the end-of-sequence token when finish is "stop".
        log_probs: float32 [m], nats, under the combination.
        finish: "stop" or "length".
    """

    token_ids: list[int]
    log_probs: FloatArray
    finish: Literal["stop", "length"]


async def sample_mixture(
    client: AsyncClient,
    prompt_ids: Sequence[int],
    policies: tuple[ModelRef, ModelRef],
    weights: tuple[float, float],
    *,
    temperature: float,
    max_tokens: int,
    end_ids: Sequence[int],
    rng: np.random.Generator,
    timeout_s: float,
) -> Written:
    """One completion of `prompt_ids`; one uniform number of `rng` is used a token.

    Args:
        client: of a log-prob service that holds both policies; their vocabularies are the same.
        weights: (a, b), of the policies' logits.
        max_tokens: most tokens of the completion, at least 1.
        timeout_s: for the whole completion.

    Raises:
        CallFailed: as `AsyncClient.next_logits`.
        ValueError: the policies have vocabularies of different sizes.
    """
    ids: list[int] = []
    log_probs: list[float] = []
    first, second = (client.next_logits(prompt_ids, policy=policy, timeout_s=timeout_s) for policy in policies)
    async with first, second:
        while True:
            one, other = np.asarray(first.latest.logits, np.float64), np.asarray(second.latest.logits, np.float64)
            if one.shape != other.shape:
                raise ValueError(f"the policies have vocabularies of {one.size} and {other.size} tokens")
            token, log_prob = draw_token(weights[0] * one + weights[1] * other, temperature, rng.random())
            ids.append(token)
            log_probs.append(log_prob)
            if token in end_ids or len(ids) >= max_tokens:
                return Written(ids, np.asarray(log_probs, np.float32), "stop" if token in end_ids else "length")
            await asyncio.gather(first.send([token]), second.send([token]))


def draw_token(logits: DoubleArray, temperature: float, uniform: float) -> tuple[int, float]:
    """Token drawn by inverse transform from softmax(logits / temperature), and its log-probability in nats.

    Args:
        logits: float64 [V].
        uniform: in [0, 1).
    """
    scaled = logits / temperature
    scaled = scaled - scaled.max()
    log_probs = scaled - np.log(np.exp(scaled).sum())
    cumulative = np.exp(log_probs).cumsum()
    # The first token whose cumulated mass exceeds u; never one of zero mass.
    token = min(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")), len(logits) - 1)
    return token, float(log_probs[token])
