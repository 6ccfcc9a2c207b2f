"""The light client of the mesh: grpcio and protobuf only.

from rewardmesh.client import Client, sample

with Client("127.0.0.1:50051") as client:
    for score in client.score([sample("a", "What is 2 + 2?", "4")]):
        print(score.sample_id, score.value, score.absence)
"""

from rewardmesh.client._async import AsyncClient
from rewardmesh.client._base import HealthStatus, Normalisation, Priority, RankingAggregation, RankingMethod
from rewardmesh.client._next_logits import AsyncNextLogitsSession, NextLogitsSession
from rewardmesh.client._sync import Client
from rewardmesh.client.arrays import pack_floats, pack_ints, unpack_floats, unpack_ints
from rewardmesh.client.balancing import AioBalancedChannel, BalancedChannel, ChannelStatistics, ReplicaStatistics
from rewardmesh.client.channel import ChannelOptions, open_aio_channel, open_channel, service_config
from rewardmesh.client.errors import CallFailed, Violation
from rewardmesh.client.jsonl import ProgramScorer, RewardScorer, VerifierScorer, score_jsonl
from rewardmesh.client.messages import (
    Model,
    Prompt,
    answer,
    generation_prompt,
    message,
    messages,
    model_ref,
    pair,
    rank_group,
    sample,
    token_prefix,
    token_sequence,
)
from rewardmesh.client.results import (
    Absence,
    AbsenceReason,
    Component,
    Critique,
    Evaluation,
    Evaluations,
    Generation,
    Grades,
    NextLogits,
    Preference,
    Ranking,
    Score,
    Selection,
    SuffixScores,
    TokenScores,
    Verdict,
)

__all__ = [
    "Absence",
    "AbsenceReason",
    "AioBalancedChannel",
    "AsyncClient",
    "AsyncNextLogitsSession",
    "BalancedChannel",
    "CallFailed",
    "ChannelOptions",
    "ChannelStatistics",
    "Client",
    "Component",
    "Critique",
    "Evaluation",
    "Evaluations",
    "Generation",
    "Grades",
    "HealthStatus",
    "Model",
    "NextLogits",
    "NextLogitsSession",
    "Normalisation",
    "Preference",
    "Priority",
    "ProgramScorer",
    "Prompt",
    "Ranking",
    "RankingAggregation",
    "RankingMethod",
    "ReplicaStatistics",
    "RewardScorer",
    "Score",
    "Selection",
    "SuffixScores",
    "TokenScores",
    "Verdict",
    "VerifierScorer",
    "Violation",
    "answer",
    "generation_prompt",
    "message",
    "messages",
    "model_ref",
    "open_aio_channel",
    "open_channel",
    "pack_floats",
    "pack_ints",
    "pair",
    "rank_group",
    "sample",
    "score_jsonl",
    "service_config",
    "token_prefix",
    "token_sequence",
    "unpack_floats",
    "unpack_ints",
]
