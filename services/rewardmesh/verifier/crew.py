"""Checks samples by verifiers that run untrusted code: each item holds one of a fixed number of slots, and the sandboxes it asks for.

Such a check mostly waits for other processes, so it runs on the event loop; the limits that count are those of the sandboxes. The time of
one item is limited here too: at the call's deadline, or when nobody waits for the call any more, the item is cancelled, and cancelling
kills its sandboxes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.jobs import Item, Job
from rewardmesh.verifier.line import Line
from rewardmesh.verifier.registry import Verifier
from rewardmesh.verifier.sandbox.limits import SandboxError
from rewardmesh.verifier.sandbox.sandboxes import Sandboxes
from rewardmesh.verifier.verdicts import Checked, Group, NoVerdict, Reason, StepVerdict, Verdict, line_of, reportable

log = get_logger(__name__)


class SandboxCrew(Line):
    """A fixed number of slots and the line in front of them."""

    def __init__(self, verifiers: Mapping[str, Verifier], sandboxes: Sandboxes, slots: int, max_queue_items: int, item_s: float) -> None:
        """`item_s`: seconds that one sample may take, compilation included."""
        super().__init__(slots, max_queue_items)
        self._verifiers = verifiers
        self._sandboxes = sandboxes
        self._item_s = item_s
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[asyncio.Task[None], Job] = {}

    def start(self) -> None:
        """Begin to take items."""
        log.info("sandboxes", runtime=self._sandboxes.name or "none", slots=self._hands)
        self._tasks = [asyncio.create_task(self._serve(), name=f"sandbox-slot-{number}") for number in range(self._hands)]

    def end(self, job: Job) -> None:
        """See `Line`; what runs is cancelled, and its sandboxes are killed."""
        super().end(job)
        for task, running in self._running.items():
            if running is job:
                task.cancel()

    async def close(self) -> None:
        """Cancel everything; unfinished items get INFRASTRUCTURE. Safe to call twice."""
        tasks = [*self._tasks, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._fail_all("the server stopped before the item was checked")

    async def _serve(self) -> None:
        """One slot's life. An item is a task of its own, so that it can be cancelled alone."""
        while True:
            job, (item,) = await self._next(1, 1)
            task = asyncio.create_task(self._check(job, item))
            self._running[task] = job
            try:
                await asyncio.wait({task})
            finally:
                # This slot itself may have been cancelled: its item must not outlive it.
                task.cancel()
                self._running.pop(task)
                self._tell_of_room()

    async def _check(self, job: Job, item: Item) -> None:
        began = time.monotonic()
        result: Verdict | NoVerdict
        limit = self._item_s if job.deadline is None else max(0.0, min(self._item_s, job.deadline - began))
        try:
            async with asyncio.timeout(limit):
                result = await self._verdict(job, item)
        except TimeoutError:
            result = self._late(job)
        except SandboxError as error:
            result = NoVerdict(Reason.INFRASTRUCTURE, str(error), retryable=True)
        except Exception as error:
            detail = f"verifier {job.verifier} raised {type(error).__name__}: {str(error)[:200]}"
            log.exception("verifier failed", detail=detail)
            result = NoVerdict(Reason.INFRASTRUCTURE, detail)
        seconds = time.monotonic() - began
        self._seconds_an_item += 0.1 * (seconds - self._seconds_an_item)
        job.settle(item, Checked(result, began - item.arrived, seconds))

    async def _verdict(self, job: Job, item: Item) -> Verdict | NoVerdict:
        check, sample = self._verifiers[job.verifier].check, item.sample
        if check is None or isinstance(sample, Group):
            raise TypeError(f"verifier {job.verifier} does not check single samples in sandboxes")
        result = await check(sample, job.options, self._sandboxes)
        if isinstance(result, NoVerdict):
            return replace(result, detail=reportable(result.detail))
        steps = tuple(StepVerdict(step, status, score, reportable(words)) for step, status, score, words in result.steps)
        line = line_of(result, sample.completion)
        return replace(
            result, evidence=reportable(result.evidence), extracted_answer=reportable(result.extracted_answer), line=line, steps=steps
        )

    def _late(self, job: Job) -> NoVerdict:
        if job.expired:
            return NoVerdict(Reason.DEADLINE, "the call's deadline passed while the item was being checked", retryable=True)
        detail = f"the tests together took longer than the {self._item_s:g} s that one sample may take here (sandbox_item_seconds)"
        return NoVerdict(Reason.DEADLINE, detail)
