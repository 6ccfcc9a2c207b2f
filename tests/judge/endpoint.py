"""An OpenAI-compatible endpoint that says what a test wants it to: label probabilities, and texts."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.scripted_server import Answer, scripted
from rewardmesh.client import AsyncClient
from rewardmesh.judge import JudgeConfig, create_server

Labels = Callable[[str], Mapping[str, float]]
"""Question -> probability of each first token."""
Writes = Callable[[str, int], str]
"""(question, index of the text) -> text."""


@dataclass
class Endpoint:
    """`asked` and `written_on` are the questions whose labels were read, and the prompts that were written on from, in order."""

    labels: Labels | None = None
    writes: Writes = lambda text, index: ""
    asked: list[str] = field(default_factory=list)
    written_on: list[tuple[str, Any]] = field(default_factory=list)

    def __call__(self, path: str, body: Any) -> Answer:
        if path == "/v1/models":
            return Answer({"data": [{"id": "gpt"}]})
        text = body["messages"][-1]["content"]
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        if not body.get("logprobs"):
            self.written_on.append((text, body))
            texts = [self.writes(text, index) for index in range(body.get("n", 1))]
            return Answer({"choices": [{"message": {"content": each}, "finish_reason": "stop"} for each in texts], "usage": usage})
        if self.labels is None:
            return Answer({"choices": [{"message": {"content": "A"}, "logprobs": None}], "usage": usage})
        self.asked.append(text)
        listed = [{"token": token, "logprob": math.log(p)} for token, p in self.labels(text).items()]
        return Answer({"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": listed}]}}], "usage": usage})


@asynccontextmanager
async def judging(endpoint: Endpoint, **changes: Any) -> AsyncIterator[AsyncClient]:
    """A judge whose model is behind the endpoint."""
    with scripted(endpoint) as server:
        settings: dict[str, Any] = {"model": "gpt", "engine": "openai", "engine_address": server.address, "drain_seconds": 2.0}
        judge = await create_server(JudgeConfig(**(settings | {"engine_options": {"tries": 1}} | changes)))
        endpoint.asked.clear()  # questions of its opening
        endpoint.written_on.clear()
        await judge.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(judge.stop)
            yield await stack.enter_async_context(AsyncClient(judge.address))
