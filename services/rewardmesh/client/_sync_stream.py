"""A stream of the blocking client: items out, results in, a bounded number under way, taken up again elsewhere when the call breaks.

Requests are drawn by a thread of grpc's, one for each call. When a call breaks, its thread may still wait for the caller's next item;
what it gets then is handed to the call that came after.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import grpc

from rewardmesh.client._base import remaining_s
from rewardmesh.client._resume import Resumes
from rewardmesh.client._streams import Stream
from rewardmesh.client.balancing import BalancedChannel
from rewardmesh.client.errors import CallFailed, absence_of, call_failed

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")


def stream_items(
    channel: BalancedChannel,
    call: "grpc.StreamStreamMultiCallable[Q, A]",
    stream: Stream[T, Q, A, R],
    items: Iterable[T],
    deadline: float | None,
    metadata: tuple[tuple[str, str], ...],
) -> Iterator[R]:
    """One result an item, in any order. What cannot be answered in the end becomes absences; a mistake raises CallFailed."""
    feed = _Feed(stream, items, channel.options.stream_window)
    resumes = Resumes(channel, deadline)
    while True:
        progressed = False
        requests = feed.requests()
        running = call(requests, timeout=remaining_s(deadline), metadata=metadata)
        try:
            for reply in running:
                result = feed.receive(reply)
                progressed = True
                yield result
            stream.end()
            return
        except grpc.RpcError as error:
            requests.stop()
            if feed.trouble is not None:
                raise feed.trouble from None
            failure = call_failed(error)
            wait_s = resumes.wait_s(failure, progressed)
        finally:
            requests.stop()
            running.cancel()
        if wait_s is None:
            break
        time.sleep(wait_s)
    yield from feed.absent(failure)


class _Feed(Generic[T, Q, A, R]):
    """The caller's items and who draws them. `trouble` is what the caller's iterable raised: grpc would report it as UNKNOWN."""

    def __init__(self, stream: Stream[T, Q, A, R], items: Iterable[T], window: int) -> None:
        self._stream = stream
        self._source = iter(items)
        self._window = window
        self._drawing = threading.Lock()
        self.changed = threading.Condition()
        self._handed: deque[T] = deque()
        self.trouble: Exception | None = None

    def requests(self) -> "_Requests[T, Q, A, R]":
        """The requests of a call: what is unanswered, then what comes."""
        with self.changed:
            # What an earlier call's thread drew too late is unanswered too.
            self._handed.clear()
            return _Requests(self, self._stream.first, deque(self._stream.unanswered()))

    def again(self, item: T) -> Q:
        """The request of an item that was sent before."""
        return self._stream.request(item)

    def draw(self, requests: "_Requests[T, Q, A, R]") -> Q:
        """The request of the next item, when there is room for it. Raises StopIteration at the end, or when the call is over."""
        with self._drawing:
            with self.changed:
                if not self._handed:
                    self.changed.wait_for(lambda: requests.stopped or self._stream.waiting < self._window)
                if requests.stopped:
                    raise StopIteration
                if self._handed:
                    return self._stream.request(self._handed.popleft())
            try:
                item = next(self._source)
                with self.changed:
                    request = self._stream.send(item)
                    if requests.stopped:
                        self._handed.append(item)
                        raise StopIteration
                    return request
            except StopIteration:
                raise
            except Exception as error:
                self.trouble = error
                raise

    def receive(self, reply: A) -> R:
        """Read a reply, which makes room."""
        with self.changed:
            result = self._stream.receive(reply)
            self.changed.notify_all()
            return result

    def absent(self, failure: CallFailed) -> Iterator[R]:
        """What is left of the stream becomes."""
        absence = absence_of(failure)
        with self._drawing:  # the item that a thread waits for comes first
            yield from self._stream.give_up(absence)
            for item in self._source:
                self._stream.send(item)
                yield from self._stream.give_up(absence)


class _Requests(Iterator[Q], Generic[T, Q, A, R]):
    """The requests of one call."""

    def __init__(self, feed: _Feed[T, Q, A, R], first: Q, again: deque[T]) -> None:
        self._feed = feed
        self._first: Q | None = first
        self._again = again
        self.stopped = False

    def __next__(self) -> Q:
        if self.stopped:
            raise StopIteration
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._again:
            return self._feed.again(self._again.popleft())
        return self._feed.draw(self)

    def stop(self) -> None:
        """The call is over: draw no more for it."""
        with self._feed.changed:
            self.stopped = True
            self._feed.changed.notify_all()
