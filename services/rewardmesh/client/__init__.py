"""The light client of the mesh: grpcio and protobuf only.

from rewardmesh.client import Client, sample

with Client("127.0.0.1:50051") as client:
    for score in client.score([sample("a", "What is 2 + 2?", "4")]):
        print(score.sample_id, score.value, score.absence)
"""

from rewardmesh.client._async import AsyncClient
from rewardmesh.client._base import HealthStatus, Priority
from rewardmesh.client._sync import Client
from rewardmesh.client.arrays import pack_floats, pack_ints, unpack_floats, unpack_ints
from rewardmesh.client.channel import ChannelOptions, open_aio_channel, open_channel, service_config
from rewardmesh.client.errors import CallFailed, Violation
from rewardmesh.client.jsonl import ProgramScorer, RewardScorer, VerifierScorer, score_jsonl
from rewardmesh.client.messages import Model, Prompt, answer, generation_prompt, message, messages, model_ref, pair, sample, token_sequence
from rewardmesh.client.results import (
    Absence,
    AbsenceReason,
    Component,
    Evaluation,
    Evaluations,
    Generation,
    Grades,
    Preference,
    Score,
    Selection,
    TokenScores,
    Verdict,
)

__all__ = [
    "Absence",
    "AbsenceReason",
    "AsyncClient",
    "CallFailed",
    "ChannelOptions",
    "Client",
    "Component",
    "Evaluation",
    "Evaluations",
    "Generation",
    "Grades",
    "HealthStatus",
    "Model",
    "Preference",
    "Priority",
    "ProgramScorer",
    "Prompt",
    "RewardScorer",
    "Score",
    "Selection",
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
    "sample",
    "score_jsonl",
    "service_config",
    "token_sequence",
    "unpack_floats",
    "unpack_ints",
]
