"""Steps of streams that wait at the same time are one forward pass; one that fails does not harm the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from rewardmesh.engine.loading import LoadedModel, load_model
from rewardmesh.engine.next_logits import LogitStream, advance
from rewardmesh.logprob import steps
from rewardmesh.logprob.steps import Steps

T = TypeVar("T")


class Engine:
    """One thread, busy until it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.thread = ThreadPoolExecutor(1)

    async def run(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, job)


@asynccontextmanager
async def busy() -> AsyncIterator[Engine]:
    engine = Engine()
    waiting = engine.thread.submit(engine.free.wait, 30)
    try:
        yield engine
    finally:
        engine.free.set()
        waiting.result()
        engine.thread.shutdown()


@pytest.fixture(scope="module")
def models(causal_model: Path, second_policy: Path) -> list[LoadedModel]:
    return [load_model(path, "causal", name="m", version=1) for path in (causal_model, second_policy)]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams each forward pass had."""
    seen: list[int] = []

    def watched(batch: Sequence[tuple[LogitStream, Any]]) -> torch.Tensor:
        seen.append(len(batch))
        if len({stream.model.fingerprint for stream, _ in batch}) > 1 or any(13 in ids for _, ids in batch):
            raise ValueError("unlucky")
        return advance(batch)

    monkeypatch.setattr(steps, "advance", watched)
    return seen


def alone(model: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    return advance([(LogitStream(model), ids)])[0]


async def test_what_waits_is_computed_together(models: list[LoadedModel], sizes: list[int]) -> None:
    prompts = [[5, 6, 7 + n] for n in range(4)]
    async with busy() as engine:
        together = Steps(engine.run)
        streams = [(LogitStream(model), prompt) for prompt in prompts for model in models]
        tasks = [asyncio.ensure_future(together.advance(stream, prompt)) for stream, prompt in streams]
        await asyncio.sleep(0.05)
        engine.free.set()
        first = await asyncio.gather(*tasks)
        second = [await together.advance(stream, [9]) for stream, _ in streams]
    assert sizes[:2] == [4, 4], "one forward pass a model"
    for (stream, prompt), early, late in zip(streams, first, second, strict=True):
        torch.testing.assert_close(early, alone(stream.model, prompt), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(late, alone(stream.model, [*prompt, 9]), atol=1e-4, rtol=1e-4)


async def test_apart_the_bits_do_not_depend_on_the_others(models: list[LoadedModel], sizes: list[int]) -> None:
    prompts = [[5, 6, 7 + n] for n in range(4)]
    async with busy() as engine:
        apart = Steps(engine.run, apart=True)
        tasks = [asyncio.ensure_future(apart.advance(LogitStream(models[0]), prompt)) for prompt in prompts]
        await asyncio.sleep(0.05)
        engine.free.set()
        found = await asyncio.gather(*tasks)
    assert sizes == [1, 1, 1, 1]
    for logits, prompt in zip(found, prompts, strict=True):
        assert torch.equal(logits, alone(models[0], prompt))


async def test_a_stream_that_fails_or_goes_away_does_not_harm_the_others(models: list[LoadedModel], sizes: list[int]) -> None:
    async with busy() as engine:
        together = Steps(engine.run)
        prompts = [[5, 6], [5, 13], [8], [9]]
        tasks = [asyncio.ensure_future(together.advance(LogitStream(models[0]), prompt)) for prompt in prompts]
        await asyncio.sleep(0.05)
        tasks[3].cancel()
        await asyncio.sleep(0.05)
        engine.free.set()
        good, failed, other, gone = await asyncio.gather(*tasks, return_exceptions=True)
    assert sizes == [3, 1, 1, 1], "the one that has gone is not computed"
    assert isinstance(failed, ValueError)
    assert isinstance(gone, asyncio.CancelledError)
    for logits, prompt in ((good, [5, 6]), (other, [8])):
        assert isinstance(logits, torch.Tensor)
        torch.testing.assert_close(logits, alone(models[0], prompt), atol=1e-4, rtol=1e-4)


async def test_a_stopped_engine_answers_everybody(models: list[LoadedModel]) -> None:
    async def stopped(job: Callable[[], T]) -> T:
        raise RuntimeError("the server is stopping")

    together = Steps(stopped)
    results = await asyncio.gather(*(together.advance(LogitStream(models[0]), [5]) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["the server is stopping"] * 3
