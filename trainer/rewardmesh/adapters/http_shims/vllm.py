"""vLLM's pooling server: `POST /score` and `POST /classify`, with the shapes of its answers.

`/score` compares two texts with a cross-encoder; here text_1 is the prompt and text_2 the answer that the reward model scores, in the
model's own chat template. `/classify` reads texts (or token ids) as they are, with the special tokens that the tokenizer adds, as vLLM
does. Like vLLM, both give activated values unless a request says `"use_activation": false`: the sigmoid of one output, the softmax of
several. Values on a declared scale other than logits (a program's, a calibrated head's) are activated already and stay as they are.
Source: vllm/entrypoints/pooling/{scoring,classify} of vLLM 0.32.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewardmesh.adapters.http_shims.scoring import Scored, Scorer
from rewardmesh.client import sample
from rewardmesh.serving.http import Endpoint, HttpError, Received, Reply, shortest
from rewardmesh.serving.raw import raw_sample
from rewardmesh.v1 import common_pb2 as pb

Texts = str | list[str]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str | None = Field(None, description="name of the model or program; the configured one when left out")
    use_activation: bool | None = Field(None, description="false for the head's raw output")


class ScoreBody(_Body):
    """Pairs of texts, under any of vLLM's names for them: one with one, one with many, or many with as many."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None


class Turn(BaseModel):
    """One message of a dialogue."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: str
    content: str


class ClassifyBody(_Body):
    """Texts, token ids, or a dialogue that ends with the answer."""

    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: list[Turn] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one(self) -> ClassifyBody:
        if (self.input is None) == (self.messages is None):
            raise ValueError("must have either input or messages")
        return self


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ScoreData(BaseModel):
    """One score."""

    index: int
    object: str
    score: float


class ScoreReply(BaseModel):
    """vLLM's ScoreResponse."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreData]
    usage: Usage


class ClassifyData(BaseModel):
    """The classes of one text; label is the likeliest's, null for a head with one output."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassifyReply(BaseModel):
    """vLLM's ClassificationResponse."""

    id: str
    object: str
    created: int
    model: str
    data: list[ClassifyData]
    usage: Usage


def vllm_endpoints(scorer: Scorer) -> list[Endpoint[Any]]:
    """Both endpoints, `/score` also under its older path."""

    async def score(received: Received[ScoreBody]) -> Reply:
        body = received.body
        samples, field = _pairs(body)
        scored = await scorer.score(samples, received.caller, field, body.model or "")
        data = [{"index": i, "object": "score", "score": _number(_activated(each, body)[0])} for i, each in enumerate(scored)]
        return Reply(_reply("score", scored, data))

    async def classify(received: Received[ClassifyBody]) -> Reply:
        body = received.body
        field = "input" if body.messages is None else "messages"
        scored = await scorer.score(_inputs(body), received.caller, field, body.model or "")
        return Reply(_reply("classify", scored, [_classes(index, each, body) for index, each in enumerate(scored)]))

    about = "Scores of pairs, as vLLM answers them."
    pair, texts = {"text_1": "What is 2 + 2?", "text_2": ["4", "5"]}, {"input": ["What is 2 + 2? 4"]}
    classes = "Classes of texts, as vLLM answers them."
    return [
        Endpoint("POST", "/score", "Score", about, score, ScoreBody, ScoreReply, example=pair),
        Endpoint("POST", "/v1/score", "ScoreV1", about, score, ScoreBody, ScoreReply, documented=False),
        Endpoint("POST", "/classify", "Classify", classes, classify, ClassifyBody, ClassifyReply, example=texts),
    ]


def _pairs(body: ScoreBody) -> tuple[list[pb.Sample], str]:
    names = [name for name in ("text_1", "text_2", "queries", "documents", "items", "data_1", "data_2") if getattr(body, name) is not None]
    if tuple(names) not in (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")):
        raise HttpError(400, f"body: has {', '.join(names) or 'no texts'}; send text_1 and text_2, or queries and documents")
    first, second = ([texts] if isinstance(texts, str) else texts for texts in (getattr(body, name) for name in names))
    if not first or not second:
        raise HttpError(400, f"{names[0] if not first else names[1]}: is empty", ((names[0] if not first else names[1], "is empty"),))
    if len(first) not in (1, len(second)):
        raise HttpError(400, f"{names[0]}: {len(first)} for {len(second)} in {names[1]}; must be one, or as many")
    if len(first) == 1:
        first *= len(second)
    return [sample(str(i), prompt, answer) for i, (prompt, answer) in enumerate(zip(first, second, strict=True))], names[1]


def _inputs(body: ClassifyBody) -> list[pb.Sample]:
    if body.messages is not None:
        return [_dialogue(body.messages)]
    given = body.input
    if isinstance(given, str):
        items: Sequence[Any] = [given]
    elif given and isinstance(given[0], int):
        items = [given]
    else:
        items = given or []
    if not items:
        raise HttpError(400, "input: is empty", (("input", "is empty"),))
    template = "tokenizer" if body.add_special_tokens else "none"
    return [
        raw_sample(str(index), item, template=template) if isinstance(item, str) else _of_ids(index, item)  # type: ignore[arg-type]
        for index, item in enumerate(items)
    ]


def _of_ids(index: int, ids: list[int]) -> pb.Sample:
    try:
        return raw_sample(str(index), "", token_ids=ids)
    except OverflowError as error:
        raise HttpError(422, f"input[{index}]: holds a number that is no token id", ((f"input[{index}]", "no token ids"),)) from error


def _dialogue(turns: Sequence[Turn]) -> pb.Sample:
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise HttpError(422, "messages: must end with the assistant's answer to score", (("messages", "must end with role assistant"),))
    try:
        return sample("0", [(turn.role, turn.content) for turn in turns[:-1]], turns[-1].content)
    except ValueError as error:
        raise HttpError(422, f"messages: {error}", (("messages", str(error)),)) from error


def _classes(index: int, scored: Scored, body: ClassifyBody) -> dict[str, Any]:
    probs = _activated(scored, body, every=True)
    names = list(scored.parts)
    label = names[max(range(len(probs)), key=probs.__getitem__)] if len(names) == len(probs) and len(probs) > 1 else None
    return {"index": index, "label": label, "probs": [_number(each) for each in probs], "num_classes": len(probs)}


def _activated(scored: Scored, body: _Body, *, every: bool = False) -> list[float]:
    """The value, or with `every` all outputs of a head that has several; activated unless asked otherwise."""
    values = list(scored.parts.values()) if every and len(scored.parts) > 1 and scored.model else [scored.value]
    if body.use_activation is False or not scored.logit or scored.absence is not None:
        return values
    if len(values) == 1:
        return [_sigmoid(values[0])]
    greatest = max(values)
    weights = [math.exp(value - greatest) for value in values]
    return [weight / sum(weights) for weight in weights]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _reply(kind: str, scored: Sequence[Scored], data: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = sum(each.tokens for each in scored)
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": next((each.model for each in scored if each.model), ""),
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None},
    }


def _number(value: float) -> float:
    found = shortest(value)
    return math.nan if found is None else found
