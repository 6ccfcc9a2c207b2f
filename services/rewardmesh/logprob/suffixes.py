"""ScoreSuffixes: every suffix on every prefix. The items of a prefix are one group of the queue, so that it is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rewardmesh.engine.log_probs import TokenStatistics
from rewardmesh.logprob.queries import Ids, Lane, Query, outside, to_work, token_ids, too_long
from rewardmesh.serving.batching import Done, Work
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api


@dataclass(frozen=True)
class PreparedPrefix:
    """One prefix of a call: its items, one a suffix in the request's order, or why there are none."""

    id: str
    tokens: int
    works: list[Work[Query]] = field(default_factory=list)
    problem: pb.Absence | None = None


def read_suffixes(request: api.ScoreSuffixesRequest, vocabulary: int) -> list[Ids]:
    """The suffixes; they hold for all prefixes, so that a wrong one makes the whole call wrong.

    Raises:
        CallError: INVALID_ARGUMENT for none, an empty one, torn bytes, or a token outside the vocabulary.
    """
    if not request.suffixes:
        raise invalid_argument("suffixes", "are missing; give at least one")
    suffixes = []
    for index, message in enumerate(request.suffixes):
        name = f"suffixes[{index}]"
        try:
            ids = token_ids(message, name)
        except ValueError as error:
            raise invalid_argument(name, str(error).removeprefix(f"{name}: ")) from error
        if not len(ids):
            raise invalid_argument(name, "is empty, there is nothing to score")
        if problem := outside(ids, name, vocabulary):
            raise invalid_argument(name, problem.removeprefix(f"{name}: "))
        suffixes.append(ids)
    return suffixes


def prepare_prefix(prefix: api.TokenPrefix, suffixes: Sequence[Ids], lane: Lane) -> PreparedPrefix:
    """The items of one prefix; a wrong or too long prefix has none."""
    try:
        ids = token_ids(prefix.token_ids, "token_ids")
    except ValueError as error:
        return PreparedPrefix(prefix.id, 0, problem=absence(pb.ABSENCE_REASON_INVALID_INPUT, str(error)))
    wrong = outside(ids, "token_ids", lane.model.vocabulary)
    if not len(ids):
        wrong = "token_ids: is empty; give at least the beginning-of-sequence token"
    read = len(ids) + sum(map(len, suffixes))
    if wrong:
        return PreparedPrefix(prefix.id, read, problem=absence(pb.ABSENCE_REASON_INVALID_INPUT, wrong))
    if lost := too_long(len(ids) + max(map(len, suffixes)), lane.model):
        return PreparedPrefix(prefix.id, read, problem=lost)
    return PreparedPrefix(prefix.id, read, [to_work(Query(ids, suffix), lane) for suffix in suffixes])


def prefix_scores(items: Sequence[Done[TokenStatistics]], *, mean: bool) -> api.SuffixScores | pb.Absence:
    """The value of each suffix, or the absence of the first one that has none: a prefix is answered whole or not at all."""
    values = np.empty(len(items), "<f4")
    for index, item in enumerate(items):
        if item.result is None:
            return item.absence or absence(pb.ABSENCE_REASON_INFRASTRUCTURE, "the engine gave no result")
        log_probs = item.result.log_probs.double()
        if not bool(torch.isfinite(log_probs).all()):
            return absence(pb.ABSENCE_REASON_NON_FINITE, f"the policy computed NaN or infinity on suffixes[{index}]")
        values[index] = float(log_probs.mean() if mean else log_probs.sum())
    return api.SuffixScores(values=pb.Float32Array(data=values.tobytes(), length=values.size))
