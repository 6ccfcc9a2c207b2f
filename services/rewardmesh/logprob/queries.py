"""What the engine is asked: the log-probabilities of a run of tokens after another, under one policy version with one set of options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.serving.batching import Work
from rewardmesh.serving.caching import KeyMaker
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Query:
    """Tokens that are given, and tokens whose log-probabilities are asked."""

    prompt: Ids
    completion: Ids


@dataclass(frozen=True)
class Lane:
    """What is computed together: one policy version with one set of options."""

    model: ServedModel
    temperature: float
    extras: frozenset[Extra] = frozenset()
    top_k: int = 0


def to_work(query: Query, lane: Lane) -> Work[Query]:
    """The query as an item of the queue; queries with the same prompt are one group."""
    shared = lane.model.shareable(len(query.prompt))
    return Work(query, lane, query.prompt.tobytes(), len(query.prompt) + len(query.completion), shared_tokens=shared)


def with_keys(service: str, works: Sequence[Work[Query]]) -> list[Work[Query]]:
    """The same items with their identity for caches."""
    makers: dict[Lane, KeyMaker] = {}
    keyed = []
    for work in works:
        lane = cast(Lane, work.lane)
        if lane not in makers:
            makers[lane] = model_keys(
                service, lane.model, "token_statistics", temperature=lane.temperature, extras=sorted(lane.extras), top_k=lane.top_k
            )
        keyed.append(replace(work, key=makers[lane].key(work.payload.prompt, work.payload.completion)))
    return keyed


def compute(lane: Lane, queries: Sequence[Query]) -> list[tuple[TokenStatistics, int]]:
    """Statistics of each query's completion tokens and the tokens computed for it; runs on the engine's thread."""
    pairs = [(query.prompt, query.completion) for query in queries]
    return lane.model.token_statistics(pairs, temperature=lane.temperature, extras=lane.extras, top_k=lane.top_k)


def token_ids(message: pb.Int32Array, field: str) -> Ids:
    """int32 ids of a message; ValueError when the stated length is not the data's."""
    if len(message.data) != 4 * message.length:
        raise ValueError(f"{field}: states {message.length} values, holds {len(message.data)} bytes")
    return np.frombuffer(message.data, "<i4").astype(np.int32)


def outside(ids: Ids, field: str, vocabulary: int) -> str:
    """What is wrong with ids that the model has no embedding for; empty when nothing is."""
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        return f"{field}: a token id lies outside the vocabulary of {vocabulary}"
    return ""


def too_long(tokens: int, model: ServedModel) -> pb.Absence | None:
    """TOO_LONG beyond the model's context: cutting tokens would change the log-probabilities of those that stay."""
    if tokens <= model.max_tokens:
        return None
    return absence(pb.ABSENCE_REASON_TOO_LONG, f"{tokens} tokens, the policy takes {model.max_tokens}")
