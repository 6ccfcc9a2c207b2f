"""One StreamVerify call: samples come in, outcomes go out as they are ready, and no more than a window of samples is held.

Samples of verifiers that run inline are checked in slices between two looks at the event loop. All others are items of one job of the
pool, which wakes the stream when one is settled. Whatever is ready is written into one reply, and a reply that the caller does not take
stops everything: nothing more is checked, nothing more is read, and HTTP/2 flow control stops the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b

from rewardmesh.serving.errors import invalid_argument, overloaded
from rewardmesh.serving.metrics import INFLIGHT_ITEMS
from rewardmesh.serving.streaming import Inbox
from rewardmesh.serving.validation import require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.inline import SLICE_ITEMS, SLICE_S, check, runs_inline
from rewardmesh.verifier.jobs import Job, late
from rewardmesh.verifier.line import Line
from rewardmesh.verifier.outcomes import SERVICE, OutcomeWriter, observe
from rewardmesh.verifier.reading import read_sample
from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import NoVerdict, SampleFields, Verdict

REPLY_CHARACTERS = 2**20
"""Code points of evidence and answers after which a reply is sent."""
LONGEST_KEPT_ID = 32
"""Longer ids are remembered by their hash."""

Request = verifier_pb.StreamVerifyRequest
Response = verifier_pb.StreamVerifyResponse


@dataclass(frozen=True)
class StreamLimits:
    """What one stream may hold."""

    window_items: int
    max_items: int
    max_text_bytes: int


class VerifyStream:
    """The state of one stream; `replies` may be called once."""

    def __init__(self, pool: Line, verifier: Verifier, options: Options, limits: StreamLimits, replica: str) -> None:
        self._pool = pool
        self._verifier = verifier
        self._options = options
        self._limits = limits
        self._writer = OutcomeWriter(verifier.name, replica)
        self._ids = SeenIds(limits.max_items)
        self._backlog: deque[tuple[str, pb.Sample]] = deque()
        """Samples of the last message that have not been begun."""
        self._came = 0.0
        self._in_flight = 0

    async def replies(self, first: Request, requests: AsyncIterator[Request], remaining_s: float | None) -> AsyncGenerator[Response, None]:
        """Every sample's outcome. After `remaining_s` seconds (None: no limit) whatever is left or still comes is DEADLINE.

        Raises:
            CallError: a message breaks the rules of the stream.
        """
        wake = asyncio.Event()
        inbox = Inbox(requests, wake)
        job = self._pool.open(self._verifier.name, self._options, remaining_s, wake.set)
        try:
            self._accept(first.samples)
            while True:
                wake.clear()
                if job.expired:
                    job.expire()
                if job.held > len(job.open):
                    yield self._settled(job)
                    continue
                if self._backlog:
                    before = len(self._backlog)
                    reply = self._advance(job)
                    if reply.outcomes:
                        yield reply
                        continue
                    if len(self._backlog) < before:
                        await asyncio.sleep(0)
                        continue
                    self._pool.tell_of_room(wake.set)
                elif (message := inbox.take()) is not None:
                    if message.verifier or message.HasField("options"):
                        field = "verifier" if message.verifier else "options"
                        raise invalid_argument(field, "may only be in the first message of a stream")
                    self._accept(message.samples)
                    continue
                elif not inbox.ended:
                    inbox.ask()
                elif not job.open:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if job.deadline is None or job.expired else job.deadline - time.monotonic()):
                        await wake.wait()
        finally:
            self._pool.end(job)
            self._count_in_flight(-self._in_flight)
            await inbox.close()

    def _accept(self, samples: Sequence[pb.Sample]) -> None:
        """Take the samples of a message, once the ones before are done with."""
        backlog = [(sample.id, sample) for sample in samples]
        self._ids.add([sample_id for sample_id, _ in backlog])
        self._backlog.extend(backlog)
        self._came = time.monotonic()
        self._count_in_flight(len(backlog))

    def _settled(self, job: Job) -> Response:
        """What the workers have found out, as much as goes into one reply."""
        reply = Response()
        outcomes = reply.outcomes
        characters = 0
        queue_seconds = compute_seconds = 0.0
        while len(outcomes) < SLICE_ITEMS and characters < REPLY_CHARACTERS and (item := job.take()):
            checked = item.checked
            assert checked is not None
            queue_seconds = max(queue_seconds, checked.queue_seconds)
            compute_seconds += checked.compute_seconds
            for key, result in zip(item.keys, checked.each(len(item.keys)), strict=True):
                self._writer.write(outcomes, key, result, checked.queue_seconds, checked.compute_seconds / len(item.keys))
                characters += _length(result)
        observe(queue_seconds, compute_seconds)
        return self._written(reply)

    def _advance(self, job: Job) -> Response:
        """Begin samples of the backlog, as many as there is room and time for, and reply to those that are done at once."""
        reply = Response()
        outcomes = reply.outcomes
        began = time.monotonic()
        expired = job.expired
        room = min(self._limits.window_items - job.held, self._pool.room)
        found: list[tuple[str, Verdict | NoVerdict]] = []
        pooled: list[tuple[tuple[str, ...], SampleFields]] = []
        characters = begun = 0
        while self._backlog and begun < SLICE_ITEMS and characters < REPLY_CHARACTERS and time.monotonic() - began < SLICE_S:
            sample_id, sample = self._backlog[0]
            fields = read_sample(sample, self._verifier, self._limits.max_text_bytes)
            if isinstance(fields, pb.Absence):
                self._writer.write(outcomes, sample_id, fields)
            elif expired:
                self._writer.write(outcomes, sample_id, late(), began - self._came)
            elif runs_inline(self._verifier, fields, self._options):
                result = check(self._verifier, self._options, fields)
                found.append((sample_id, result))
                characters += _length(result)
            elif len(pooled) < room:
                pooled.append(((sample_id,), fields))
            else:
                break
            self._backlog.popleft()
            begun += 1
        if pooled:
            self._pool.add(job, pooled)
        if found:
            queue_seconds, compute_seconds = began - self._came, time.monotonic() - began
            observe(queue_seconds, compute_seconds)
            for sample_id, result in found:
                self._writer.write(outcomes, sample_id, result, queue_seconds, compute_seconds)
        return self._written(reply)

    def _written(self, reply: Response) -> Response:
        self._writer.flush()
        self._count_in_flight(-len(reply.outcomes))
        return reply

    def _count_in_flight(self, change: int) -> None:
        self._in_flight += change
        INFLIGHT_ITEMS.labels(SERVICE).inc(change)


class SeenIds:
    """The ids of a stream, which must not come twice. At most `most` of them: what a stream makes the server remember has a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str | bytes] = set()

    def add(self, ids: Sequence[str]) -> None:
        """Note the ids of a message.

        Raises:
            CallError: INVALID_ARGUMENT for an empty or repeated id, RESOURCE_EXHAUSTED when there are too many.
        """
        if len(self._seen) + len(ids) > self._most:
            raise overloaded(f"a stream may bring at most {self._most} samples: open another one for the rest", 0.0)
        brought = {kept(sample_id) for sample_id in ids}
        if len(brought) < len(ids) or "" in brought or not self._seen.isdisjoint(brought):
            require_unique_ids(ids, "samples")
            index, twice = next((index, one) for index, one in enumerate(ids) if kept(one) in self._seen)
            raise invalid_argument(f"samples[{index}].id", f"{twice[:200]!r} came before; ids must be unique in a stream")
        self._seen |= brought


def kept(sample_id: str) -> str | bytes:
    """As a stream remembers an id."""
    return sample_id if len(sample_id) <= LONGEST_KEPT_ID else blake2b(sample_id.encode(), digest_size=16).digest()


def _length(result: Verdict | NoVerdict) -> int:
    if not isinstance(result, Verdict):
        return len(result.detail)
    return len(result.evidence) + len(result.extracted_answer) + sum(len(step.evidence) for step in result.steps)
