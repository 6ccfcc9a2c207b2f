"""Sandboxes that are started before they are needed, used once, and replaced in the background."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.sandbox.box import Box
from rewardmesh.verifier.sandbox.limits import SandboxError
from rewardmesh.verifier.sandbox.metrics import START_SECONDS, STARTS, WARM
from rewardmesh.verifier.sandbox.runtime import Runtime

log = get_logger(__name__)


class WarmBoxes:
    """Some boxes in stock."""

    def __init__(self, runtime: Runtime, stock: int) -> None:
        self._runtime = runtime
        self._stock = stock
        self._ready: deque[Box] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._used: set[Box] = set()
        self._closed = False
        WARM.labels(runtime.name).set_function(lambda: len(self._ready))

    @property
    def pids(self) -> list[int]:
        """Process ids of the runtimes of all boxes, waiting or used."""
        return [box.pid for box in (*self._ready, *self._used)]

    async def try_one(self) -> None:
        """Start one box, as a trial; the stock grows with the first use. Raises SandboxError."""
        box = await self._start()
        if self._stock:
            self._ready.append(box)
        else:
            await box.close()

    @asynccontextmanager
    async def box(self, *, compiler: bool = False) -> AsyncIterator[Box]:
        """A fresh box, killed at the end in every case. Raises SandboxError when none can be started.

        `compiler`: see `Runtime.start`; such a box is never in stock.
        """
        box = await self._start(compiler=True) if compiler else await self._take()
        self._used.add(box)
        try:
            yield box
        finally:
            self._used.discard(box)
            await box.close()

    async def close(self) -> None:
        """Kill all boxes. Safe to call twice."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(box.close() for box in (*self._ready, *self._used)))
        self._ready.clear()

    async def _take(self) -> Box:
        if self._closed:
            raise SandboxError("the server is stopping")
        while self._ready:
            box = self._ready.popleft()
            if box.usable:
                STARTS.labels(self._runtime.name, "warm").inc()
                self._refill()
                return box
            await box.close()
        self._refill()
        return await self._start()

    async def _start(self, *, compiler: bool = False) -> Box:
        began = time.monotonic()
        try:
            box = await Box.start(self._runtime, compiler=compiler)
        except SandboxError:
            STARTS.labels(self._runtime.name, "failed").inc()
            raise
        START_SECONDS.labels(self._runtime.name).observe(time.monotonic() - began)
        STARTS.labels(self._runtime.name, "cold").inc()
        return box

    def _refill(self) -> None:
        while not self._closed and len(self._ready) + len(self._starting) < self._stock:
            task = asyncio.create_task(self._add())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _add(self) -> None:
        try:
            self._ready.append(await self._start())
        except SandboxError as error:
            # Whoever takes a box finds none, starts one, and has this error as a reason.
            log.error("sandbox cannot start", runtime=self._runtime.name, error=str(error))
