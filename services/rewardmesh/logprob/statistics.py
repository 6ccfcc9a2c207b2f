"""Statistics of a completion on the wire."""

from __future__ import annotations

import torch

from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api

EXTRAS: tuple[Extra, ...] = ("entropy", "self_certainty", "margin")


def wanted_extras(want: api.LogProbWants) -> frozenset[Extra]:
    """The statistics that a request asks for beside the log-probabilities."""
    return frozenset(name for name in EXTRAS if getattr(want, name))


def to_message(stats: TokenStatistics, want: api.LogProbWants) -> api.TokenLogProbs:
    """The wire form of one completion's statistics; only what was asked for."""
    message = api.TokenLogProbs(log_probs=floats(stats.log_probs), sum=float(stats.log_probs.double().sum()))
    for name in wanted_extras(want):
        getattr(message, name).CopyFrom(floats(getattr(stats, name)))
    if stats.top_ids is not None and stats.top_log_probs is not None:
        ids = stats.top_ids.to(torch.int32).numpy()
        message.top.CopyFrom(
            api.TopTokens(
                k=ids.shape[1], ids=pb.Int32Array(data=ids.astype("<i4").tobytes(), length=ids.size), log_probs=floats(stats.top_log_probs)
            )
        )
    return message


def floats(values: torch.Tensor) -> pb.Float32Array:
    """A tensor as little-endian float32."""
    array = values.numpy().astype("<f4")
    return pb.Float32Array(data=array.tobytes(), length=array.size)
