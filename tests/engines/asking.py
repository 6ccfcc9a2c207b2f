"""The same questions to any reward, log-prob, judge or generation service, and their answers as numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rewardmesh.client import AsyncClient, generation_prompt, token_sequence
from rewardmesh.generation import GenerationConfig
from rewardmesh.generation import create_server as generation
from rewardmesh.judge import JudgeConfig
from rewardmesh.judge import create_server as judge
from rewardmesh.logprob import LogProbConfig
from rewardmesh.logprob import create_server as logprob
from rewardmesh.reward import RewardConfig
from rewardmesh.reward import create_server as reward
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import generation_service_pb2, judge_service_pb2, log_prob_service_pb2, model_service_pb2, reward_service_pb2

KINDS: dict[str, tuple[Any, Any]] = {
    "reward": (RewardConfig, reward),
    "logprob": (LogProbConfig, logprob),
    "judge": (JudgeConfig, judge),
    "generation": (GenerationConfig, generation),
}
TEMPLATE = """
name: short
labels: {a: A, b: B}
text: "{{ prompt }} A: {{ a }} B: {{ b }} Which answer is better, A or B?"
"""
TEXTS = ["12", "19 apples", "12 + 7 = 19. The answer is 19.", "The quick brown fox jumps over the lazy dog. " * 3, "Yes", "No"]
QUESTION = "Ann has 12 apples and buys 7 more. How many apples does she have now?"

Floats = npt.NDArray[np.float64]


def settings(kind: str, model: Path, templates: Path | None = None) -> dict[str, Any]:
    """What a service of a kind is told about a small model."""
    shared: dict[str, Any] = {"model": str(model), "name": "tiny", "drain_seconds": 2.0, "budget_tokens": 2048}
    if kind == "judge":
        shared |= {"templates": [str(templates)], "default_template": "short"}
    return shared


@asynccontextmanager
async def serving(kind: str, model: Path, templates: Path | None = None, **changes: Any) -> AsyncIterator[AsyncClient]:
    """A service in this process."""
    config, create = KINDS[kind]
    server = await create(config(**(settings(kind, model, templates) | changes)))
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        yield await stack.enter_async_context(AsyncClient(server.address))


async def score(client: AsyncClient, texts: Sequence[str] = TEXTS) -> list[pb.Outcome]:
    """Outcomes of the reward service, one a text."""
    prompt = [pb.Message(role=pb.ROLE_USER, content=QUESTION)]
    samples = [pb.Sample(id=str(n), prompt=prompt, completion=pb.Completion(text=text)) for n, text in enumerate(texts)]
    reply = await client.reward.Score(reward_service_pb2.ScoreRequest(samples=samples))
    return list(reply.outcomes)


def rewards(outcomes: Sequence[pb.Outcome]) -> Floats:
    """[texts, outputs] of raw objectives."""
    return np.array([[objective.value for objective in outcome.reward.objectives] for outcome in outcomes])


def lost(outcomes: Sequence[Any]) -> set[tuple[str, bool]]:
    """Reasons of absences with whether they are retryable; every outcome must be one."""
    assert all(outcome.HasField("absence") for outcome in outcomes), outcomes
    return {(pb.AbsenceReason.Name(o.absence.reason).removeprefix("ABSENCE_REASON_"), o.absence.retryable) for o in outcomes}


async def score_tokens(client: AsyncClient, **request: Any) -> list[log_prob_service_pb2.TokenLogProbsOutcome]:
    """Outcomes for three token sequences."""
    rng = np.random.default_rng(3)
    sequences = [
        token_sequence(str(n), rng.integers(6, 300, prompt).tolist(), rng.integers(6, 300, completion).tolist())
        for n, (prompt, completion) in enumerate([(1, 9), (40, 30), (7, 1)])
    ]
    reply = await client.log_prob.ScoreTokens(log_prob_service_pb2.ScoreTokensRequest(sequences=sequences, **request))
    return list(reply.outcomes)


def floats(array: pb.Float32Array) -> Floats:
    """Values of a wire array."""
    return np.frombuffer(array.data, "<f4").astype(float)


def ints(array: pb.Int32Array) -> list[int]:
    """Values of a wire array."""
    return [int(value) for value in np.frombuffer(array.data, "<i4")]


async def compare(client: AsyncClient) -> list[judge_service_pb2.PreferenceOutcome]:
    """Outcomes of three comparisons, both orders."""
    prompt = [pb.Message(role=pb.ROLE_USER, content=QUESTION)]
    pairs = [
        judge_service_pb2.Pair(id=str(n), prompt=prompt, a=pb.Completion(text=a), b=pb.Completion(text=b))
        for n, (a, b) in enumerate(zip(TEXTS[:3], TEXTS[3:], strict=True))
    ]
    return list((await client.judge.Compare(judge_service_pb2.CompareRequest(pairs=pairs))).outcomes)


def preferences(outcomes: Sequence[judge_service_pb2.PreferenceOutcome]) -> Floats:
    """[pairs, 2]: probability that a wins, as given and swapped."""
    assert all(outcome.HasField("preference") for outcome in outcomes), outcomes
    return np.array([[o.preference.p_a_as_given, o.preference.p_a_swapped] for o in outcomes])


async def write(client: AsyncClient, **request: Any) -> dict[tuple[str, int], generation_service_pb2.GenerateResponse]:
    """Completions of two prompts by prompt and index."""
    prompts = [generation_prompt("ids", token_ids=[30, 31, 32]), generation_prompt("text", QUESTION)]
    asked = generation_service_pb2.GenerateRequest(prompts=prompts, **({"max_tokens": 12, "n": 2, "seed": 4} | request))
    replies = [reply async for reply in client.generation.Generate(asked)]
    by_key = {(reply.prompt_id, reply.index): reply for reply in replies}
    assert len(by_key) == len(replies) == 2 * asked.n, "each completion exactly once"
    return by_key


async def describe(client: AsyncClient) -> model_service_pb2.GetModelResponse:
    """GetModel of the default model."""
    reply: model_service_pb2.GetModelResponse = await client.model.GetModel(model_service_pb2.GetModelRequest())
    return reply
