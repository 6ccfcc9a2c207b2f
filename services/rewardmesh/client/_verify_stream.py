"""`stream_verify` of both clients: many samples a message, verdicts as they come.

A message costs as much as dozens of samples in it, so samples are sent in messages of up to `chunk_items`. No sample waits for a message
to fill up: while one message is on its way, the next collects what comes. A bounded number is under way, and when the call breaks what is
unanswered goes to another replica, as in every stream of the client.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Any

import grpc

from rewardmesh.client._base import Metadata, remaining_s
from rewardmesh.client._batches import broken_promise
from rewardmesh.client._converse import StreamBroken, converse
from rewardmesh.client._resume import Resumes
from rewardmesh.client.errors import absence_of, call_failed
from rewardmesh.client.results import Absence, Verdict
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.verifier_service_pb2 import StreamVerifyRequest, StreamVerifyResponse, VerdictOutcome

if TYPE_CHECKING:
    from rewardmesh.client import AsyncClient, Client

CHUNK_ITEMS = 256
"""Samples a message."""
WINDOW_CHUNKS = 16
"""Full messages whose samples may be unanswered."""


async def stream_verify_async(
    client: "AsyncClient",
    samples: Iterable[Sample] | AsyncIterable[Sample],
    verifier: str,
    *,
    options: Mapping[str, Any] | None = None,
    chunk_items: int = CHUNK_ITEMS,
    timeout_s: float | None = None,
    metadata: Metadata = None,
) -> AsyncGenerator[Verdict, None]:
    """Check samples as they come; one result a sample, in any order. What cannot be answered in the end becomes absences.

    Raises:
        CallFailed: the server refuses the verifier or its options, or broke its promise of one result a sample.
        ValueError: a sample has no id, or one that came before.
    """
    stream = _VerifyStream(verifier, options)
    source = _AsyncChunks(samples, chunk_items) if isinstance(samples, AsyncIterable) else _ReadyChunks(samples, chunk_items)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    resumes = Resumes(client.channel, deadline)
    sent = client.metadata(metadata)
    room = asyncio.Event()

    async def requests() -> AsyncGenerator[StreamVerifyRequest, None]:
        yield stream.first
        for again in stream.unanswered(chunk_items):
            yield again
        while True:
            while stream.waiting >= chunk_items * WINDOW_CHUNKS:
                room.clear()
                await room.wait()
            if not (chunk := await source.take()):
                return
            yield stream.send(chunk)

    try:
        while True:
            progressed = False
            running = client.verifier.StreamVerify(timeout=remaining_s(deadline), metadata=sent)
            try:
                async with aclosing(converse(running, requests())) as replies:
                    async for reply in replies:
                        verdicts = stream.receive(reply)
                        progressed = True
                        room.set()
                        for verdict in verdicts:
                            yield verdict
                stream.end()
                return
            except StreamBroken as broken:
                failure = broken.failure
                wait_s = resumes.wait_s(failure, progressed)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
        absence = absence_of(failure)
        for verdict in stream.give_up(absence):
            yield verdict
        while chunk := await source.take():
            stream.send(chunk)
            for verdict in stream.give_up(absence):
                yield verdict
    finally:
        await source.close()


def stream_verify(
    client: "Client",
    samples: Iterable[Sample],
    verifier: str,
    *,
    options: Mapping[str, Any] | None = None,
    chunk_items: int = CHUNK_ITEMS,
    timeout_s: float | None = None,
    metadata: Metadata = None,
) -> Generator[Verdict, None, None]:
    """The same for the blocking client. A thread draws the samples, unless they are a list or a tuple."""
    stream = _VerifyStream(verifier, options)
    source = _ThreadChunks(samples, chunk_items)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    resumes = Resumes(client.channel, deadline)
    sent = client.metadata(metadata)
    try:
        while True:
            progressed = False
            requests = _Requests(stream, source, chunk_items)
            running = client.verifier.StreamVerify(requests, timeout=remaining_s(deadline), metadata=sent)
            try:
                for reply in running:
                    verdicts = requests.receive(reply)
                    progressed = True
                    yield from verdicts
                stream.end()
                return
            except grpc.RpcError as error:
                requests.stop()
                if requests.trouble is not None:
                    raise requests.trouble from None
                failure = call_failed(error)
                wait_s = resumes.wait_s(failure, progressed)
            finally:
                requests.stop()
                running.cancel()
            if wait_s is None:
                break
            time.sleep(wait_s)
        absence = absence_of(failure)
        yield from stream.give_up(absence)
        while not source.wait(lambda: False) and (chunk := source.take()):
            stream.send(chunk)
            yield from stream.give_up(absence)
    finally:
        source.close()


class _VerifyStream:
    """A stream without its transport: what went out, and what has been answered."""

    def __init__(self, verifier: str, options: Mapping[str, Any] | None) -> None:
        self.first = StreamVerifyRequest(verifier=verifier)
        if options:
            self.first.options.update(options)
        self._seen: set[str] = set()
        self._pending: dict[str, Sample] = {}

    @property
    def waiting(self) -> int:
        """Samples that have been sent and not been answered."""
        return len(self._pending)

    def send(self, chunk: Sequence[Sample]) -> StreamVerifyRequest:
        """Note samples as sent; an empty or repeated id raises ValueError."""
        by_id = {sample.id: sample for sample in chunk}
        if len(by_id) < len(chunk) or "" in by_id or not self._seen.isdisjoint(by_id):
            self._refuse(chunk)
        self._seen.update(by_id)
        self._pending.update(by_id)
        return StreamVerifyRequest(samples=chunk)

    def _refuse(self, chunk: Sequence[Sample]) -> None:
        seen = set(self._seen)
        for sample in chunk:
            if not sample.id:
                raise ValueError("a sample of the stream has no id")
            if sample.id in seen:
                raise ValueError(f"duplicate sample id {sample.id!r}")
            seen.add(sample.id)

    def unanswered(self, chunk_items: int) -> list[StreamVerifyRequest]:
        """What has to be sent again when the stream is taken up again."""
        left = list(self._pending.values())
        return [StreamVerifyRequest(samples=left[start : start + chunk_items]) for start in range(0, len(left), chunk_items)]

    def receive(self, reply: StreamVerifyResponse) -> list[Verdict]:
        """Read a reply; an outcome of what was not sent, or was answered before, raises CallFailed."""
        try:
            verdicts = [Verdict.from_proto(outcome) for outcome in reply.outcomes]
        except ValueError as error:
            raise broken_promise(str(error)) from error
        for verdict in verdicts:
            if self._pending.pop(verdict.sample_id, None) is None:
                raise broken_promise(f"outcome for {verdict.sample_id!r}, which waits for none")
        return verdicts

    def end(self) -> None:
        """The server ended the stream well: every sample must have been answered."""
        if self._pending:
            raise broken_promise(f"stream ended with {len(self._pending)} samples unanswered, first {next(iter(self._pending))!r}")

    def give_up(self, absence: Absence) -> list[Verdict]:
        """What the samples that still wait become."""
        message = absence.to_proto()
        waiting, self._pending = self._pending, {}
        return [Verdict.from_proto(VerdictOutcome(sample_id=sample_id, absence=message)) for sample_id in waiting]


class _ReadyChunks:
    """Samples of an iterable that never has to be waited for."""

    def __init__(self, samples: Iterable[Sample], most: int) -> None:
        self._samples = iter(samples)
        self._most = most

    async def take(self) -> list[Sample]:
        """The next samples; empty at the end."""
        return list(islice(self._samples, self._most))

    async def close(self) -> None:
        """Nothing to end."""


class _AsyncChunks:
    """Samples of an asynchronous iterable, drawn by a task of its own: a broken stream must not break the iterable."""

    def __init__(self, samples: AsyncIterable[Sample], most: int) -> None:
        self._samples = samples
        self._most = most
        self._drawn: list[Sample] = []
        self._some, self._room = asyncio.Event(), asyncio.Event()
        self._drawing = asyncio.ensure_future(self._draw())
        self._drawing.add_done_callback(lambda _: self._some.set())

    async def _draw(self) -> None:
        async for sample in self._samples:
            self._drawn.append(sample)
            self._some.set()
            while len(self._drawn) >= self._most:
                self._room.clear()
                await self._room.wait()

    async def take(self) -> list[Sample]:
        """What has come, at least one sample; empty at the end. Raises what the iterable raised."""
        while not self._drawn and not self._drawing.done():
            self._some.clear()
            await self._some.wait()
        chunk, self._drawn = self._drawn, []
        self._room.set()
        if not chunk:
            self._drawing.result()
        return chunk

    async def close(self) -> None:
        """Draw no more."""
        self._drawing.cancel()
        await asyncio.gather(self._drawing, return_exceptions=True)


class _ThreadChunks:
    """Samples of a blocking iterable, drawn by a thread of its own, which ends with the iterable or after the next sample once closed."""

    def __init__(self, samples: Iterable[Sample], most: int) -> None:
        self._samples = iter(samples)
        self._most = most
        self._drawn: list[Sample] = []
        self._ended = self._closed = False
        self._trouble: Exception | None = None
        self._ready = isinstance(samples, list | tuple)
        self.changed = threading.Condition(threading.RLock())
        if not self._ready:
            threading.Thread(target=self._draw, name="rewardmesh-stream-verify", daemon=True).start()

    def wait(self, enough: Callable[[], bool]) -> bool:
        """Wait until there is something to take (or the end), or `enough` says True; returns whether `enough` did."""
        with self.changed:
            self.changed.wait_for(lambda: enough() or self._ready or bool(self._drawn) or self._ended or self._closed)
            return enough()

    def take(self) -> list[Sample]:
        """What has come; empty at the end. Raises what the iterable raised."""
        if self._ready:
            return list(islice(self._samples, self._most))
        with self.changed:
            chunk, self._drawn = self._drawn, []
            self.changed.notify_all()
        if not chunk and self._trouble is not None:
            raise self._trouble
        return chunk

    def close(self) -> None:
        """Draw no more."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def _draw(self) -> None:
        try:
            for sample in self._samples:
                with self.changed:
                    self._drawn.append(sample)
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: len(self._drawn) < self._most or self._closed)
                    if self._closed:
                        return
        except Exception as error:  # noqa: BLE001 - raised again by `take`
            self._trouble = error
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()


class _Requests(Iterator[StreamVerifyRequest]):
    """The requests of one call, drawn by a thread of grpc's, which reports their errors as UNKNOWN: `trouble` keeps the real one."""

    def __init__(self, stream: _VerifyStream, source: _ThreadChunks, chunk_items: int) -> None:
        self._stream = stream
        self._source = source
        self._again = deque([stream.first, *stream.unanswered(chunk_items)])
        self._window = chunk_items * WINDOW_CHUNKS
        self._stopped = False
        self.trouble: Exception | None = None

    def __next__(self) -> StreamVerifyRequest:
        # Held while a chunk is taken and noted as sent: `stop` comes before or after both.
        with self._source.changed:
            if self._again and not self._stopped:
                return self._again.popleft()
            self._source.changed.wait_for(lambda: self._stopped or self._stream.waiting < self._window)
            if self._source.wait(lambda: self._stopped):
                raise StopIteration
            try:
                if chunk := self._source.take():
                    return self._stream.send(chunk)
            except Exception as error:
                self.trouble = error
                raise
            raise StopIteration

    def receive(self, reply: StreamVerifyResponse) -> list[Verdict]:
        """Read a reply, which makes room."""
        with self._source.changed:
            verdicts = self._stream.receive(reply)
            self._source.changed.notify_all()
            return verdicts

    def stop(self) -> None:
        """The call is over: draw no more for it."""
        with self._source.changed:
            self._stopped = True
            self._source.changed.notify_all()
