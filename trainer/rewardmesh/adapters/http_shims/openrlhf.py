"""OpenRLHF's remote reward model: `POST /get_reward`.

The trainer (`--remote_rm_url`) sends {"query": [...], "prompts": [...], "labels": [...]}: whole decoded sequences with their template, the
templated prompts they begin with, and whatever the data set has as label. It reads `rewards` (to learn from), `scores` (to filter by) and
`extra_logs` (to plot), each a number for every query. Older versions send only `query` and read only `rewards`. Any status but 200 makes
it try again, five times a second apart, before it gives up.
Source: openrlhf/utils/remote_rm_utils.py and openrlhf/cli/serve_rm.py of https://github.com/OpenRLHF/OpenRLHF.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rewardmesh.adapters.http_shims.scoring import Scored, Scorer
from rewardmesh.serving.http import Endpoint, HttpError, Received, Reply, shortest
from rewardmesh.serving.raw import raw_sample
from rewardmesh.v1 import common_pb2 as pb


class GetRewardBody(BaseModel):
    """What the trainer sends; fields that forks of it add are let be."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    query: list[str] | str = Field(description="whole texts: prompt and answer with their template, read by the reward model as they are")
    prompts: list[str] | None = Field(None, description="what each query begins with; tells prompt and answer apart")
    labels: list[JsonValue] | None = Field(None, description="texts and numbers become the sample's reference answer")


class GetRewardReply(BaseModel):
    """One number for every query, in each of the lists."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


def get_reward_endpoint(scorer: Scorer) -> Endpoint[GetRewardBody]:
    """The endpoint, answered by a scorer."""

    async def answer(received: Received[GetRewardBody]) -> Reply:
        scored = await scorer.score(_samples(received.body), received.caller, "query")
        return Reply(_reply(scored))

    return Endpoint(
        "POST",
        "/get_reward",
        "GetReward",
        "Rewards as OpenRLHF's trainer asks for them.",
        answer,
        GetRewardBody,
        GetRewardReply,
        example={"query": ["<|user|>What is 2 + 2?<|assistant|>4"], "prompts": ["<|user|>What is 2 + 2?<|assistant|>"], "labels": ["4"]},
    )


def _samples(body: GetRewardBody) -> list[pb.Sample]:
    queries = [body.query] if isinstance(body.query, str) else body.query
    for name, values in (("prompts", body.prompts), ("labels", body.labels)):
        if values is not None and len(values) != len(queries):
            raise HttpError(422, f"{name}: {len(values)} for {len(queries)} queries", ((name, "must have one entry for each query"),))
    groups: dict[str, str] = {}
    samples = []
    prompts = body.prompts or [""] * len(queries)
    for index, (query, prompt, label) in enumerate(zip(queries, prompts, body.labels or [None] * len(queries), strict=True)):
        # A prompt that was decoded in another way than the query, or an empty answer, cannot be told apart: then the query is one text.
        known = prompt if query.startswith(prompt) and len(query) > len(prompt) else ""
        group = groups.setdefault(known, f"prompt {len(groups)}") if known else ""
        samples.append(raw_sample(str(index), query[len(known) :], prompt=known, group_id=group, references=_references(label)))
    return samples


def _references(label: JsonValue) -> list[str]:
    return [str(label)] if isinstance(label, (str, int, float)) and not isinstance(label, bool) and label != "" else []


def _reply(scored: list[Scored]) -> dict[str, Any]:
    rewards = [_number(each.value) for each in scored]
    common = set.intersection(*(set(each.parts) for each in scored)) if scored else set()
    logs = {name: [_number(each.parts[name]) for each in scored] for name in sorted(common)}
    if any(each.absence for each in scored):
        logs["absent"] = [float(each.absence is not None) for each in scored]
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def _number(value: float) -> float:
    found = shortest(value)
    return float("nan") if found is None else found
