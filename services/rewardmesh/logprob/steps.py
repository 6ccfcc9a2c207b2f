"""Steps of open streams, computed together: whatever waits when the engine's thread is free is one forward pass.

The last bit of a logit may depend on what else is in the pass; a server that promises `batch_invariant` computes every step by itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from rewardmesh.engine.next_logits import LogitStream, advance
from rewardmesh.engine.packing import TokenIds

STEP_TOKENS = 1024
"""Most tokens of a step: a long prompt is computed in parts, so that other work gets its turn between them."""

T = TypeVar("T")


class Run(Protocol):
    """Runs a job on the thread that owns the models, see `Batcher.run`."""

    def __call__(self, job: Callable[[], T]) -> Coroutine[Any, Any, T]: ...


class _Step(NamedTuple):
    stream: LogitStream
    ids: TokenIds
    future: asyncio.Future[torch.Tensor]


class Steps:
    """The queue of steps.

    Args:
        run: see `Run`.
        apart: every step is a forward pass of its own.
    """

    def __init__(self, run: Run, *, apart: bool = False) -> None:
        self._run = run
        self._apart = apart
        self._lock = threading.Lock()
        self._waiting: deque[_Step] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def advance(self, stream: LogitStream, ids: TokenIds) -> torch.Tensor:
        """Add tokens to a stream; float32 [V] logits of the token after them.

        Raises:
            CallError: UNAVAILABLE when the server stops.
            Exception: whatever the engine raises for this stream.
        """
        logits = torch.empty(0)
        for start in range(0, len(ids), STEP_TOKENS):
            step = _Step(stream, ids[start : start + STEP_TOKENS], asyncio.get_running_loop().create_future())
            with self._lock:
                self._waiting.append(step)
            # One job a step, each takes all that waits: the jobs that find nothing cost nothing.
            task = asyncio.ensure_future(self._job())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            logits = await step.future
        return logits

    async def _job(self) -> None:
        try:
            results = await self._run(self._compute)
        except Exception as error:  # noqa: BLE001 - the batcher is closed: it is every waiting stream's answer
            with self._lock:
                results = [(step, error) for step in self._waiting]
                self._waiting.clear()
        for step, result in results:
            if step.future.done():
                continue
            if isinstance(result, Exception):
                step.future.set_exception(result)
            else:
                step.future.set_result(result)

    def _compute(self) -> list[tuple[_Step, torch.Tensor | Exception]]:
        """On the engine's thread."""
        batch = self._take()
        if not batch:
            return []
        try:
            return list(zip(batch, advance([(step.stream, step.ids) for step in batch]), strict=True))
        except Exception as error:  # noqa: BLE001 - an engine may fail in any way; the others of the batch must not pay for it
            if len(batch) == 1:
                return [(batch[0], error)]
        results: list[tuple[_Step, torch.Tensor | Exception]] = []
        for step in batch:
            try:
                results.append((step, advance([(step.stream, step.ids)])[0]))
            except Exception as error:  # noqa: BLE001 - as above
                results.append((step, error))
        return results

    def _take(self) -> list[_Step]:
        """Steps of one model, the one that has waited longest first; those whose caller has gone are dropped."""
        batch: list[_Step] = []
        left: deque[_Step] = deque()
        tokens = 0
        with self._lock:
            for step in self._waiting:
                if step.future.cancelled():
                    continue
                joins = bool(batch) and not self._apart and step.stream.model is batch[0].stream.model
                fits = not batch or (joins and tokens + len(step.ids) <= STEP_TOKENS)
                if fits:
                    batch.append(step)
                    tokens += len(step.ids)
                else:
                    left.append(step)
            self._waiting = left
        return batch
