"""One HTTP/1.1 client for engines that compute elsewhere: many requests in flight, bounded in number and in time.

An engine's methods block on the thread that owns the model; here their requests run side by side on an event loop of their own. What
fails becomes a `RequestError` that carries the absence to report: overload (429, 503) is OVERLOADED with the server's Retry-After, a
server that is away or answers nonsense is INFRASTRUCTURE. A short pause asked for by the server is kept, for all requests.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx2
from pydantic import Field

from rewardmesh.engine.foreign import EngineOptions
from rewardmesh.engine.limits import LimitReachedError, RateLimits
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

T = TypeVar("T")
Job = Callable[[], Awaitable[T]]

FIRST_PAUSE_S = 0.1
CANCEL_POLL_S = 0.05
STOP_TIMEOUT_S = 5.0
LONGEST_RETRY_AFTER_S = 86400.0


class HttpOptions(EngineOptions):
    """Settings of every engine that is asked by HTTP."""

    max_concurrency: int = Field(64, ge=1, description="most requests in flight")
    timeout_s: float = Field(120.0, gt=0, description="longest time one try of a request may take, once it is its turn")
    connect_timeout_s: float = Field(5.0, gt=0, description="longest time to open a connection")
    tries: int = Field(3, ge=1, description="how often a request is sent when the server is overloaded or not reached")
    max_pause_s: float = Field(5.0, ge=0, description="a longer Retry-After is not waited for: its items are absent, OVERLOADED")
    requests_per_minute: float | None = Field(
        None, ge=1, allow_inf_nan=False, description="most requests of this replica in a minute; unset: no limit"
    )
    tokens_per_minute: float | None = Field(
        None, ge=1, allow_inf_nan=False, description="most tokens that they may read and write; unset: no limit"
    )
    max_limit_wait_s: float = Field(
        30.0, ge=0, description="longest wait for these limits; an item that would wait longer, or beyond its deadline, is OVERLOADED"
    )


class RequestError(Exception):
    """A request without an answer.

    Attributes:
        absence: how to report the items that were asked for.
        status: HTTP status, 0 when there was none.
    """

    def __init__(self, lost: pb.Absence, status: int = 0) -> None:
        super().__init__(lost.detail)
        self.absence = lost
        self.status = status


class HttpClient:
    """Requests to one server; safe to use from several threads. Closed by `close`, or when it is collected.

    Args:
        address: http://host:port, with a path where the server has one.
        headers: sent with every request; never logged.
        engine: for messages.
        outside: whether the server lies beyond the proxy that the environment may name.
    """

    def __init__(
        self, address: str, options: HttpOptions, *, engine: str, headers: Mapping[str, str] | None = None, outside: bool = False
    ) -> None:
        self.address = address.rstrip("/")
        self.engine = engine
        self._options = options
        self._not_before = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"{engine}-http", daemon=True)
        self._thread.start()
        limits = httpx2.Limits(max_connections=options.max_concurrency, max_keepalive_connections=options.max_concurrency)
        timeout = httpx2.Timeout(options.timeout_s, connect=options.connect_timeout_s)
        self._http = httpx2.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=outside)
        self._slots = asyncio.Semaphore(options.max_concurrency)
        self._limits = RateLimits(options.requests_per_minute, options.tokens_per_minute, options.max_limit_wait_s)
        self._finalizer = weakref.finalize(self, _stop, self._loop, self._thread, self._http)

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self._finalizer()

    def run(self, jobs: Sequence[Job[T]], cancelled: threading.Event | None = None) -> list[T | RequestError]:
        """Run jobs side by side; blocks until all have ended.

        Args:
            cancelled: when set, what runs is broken off (the connections close, so the server stops too) and the result is [].
        """
        future = asyncio.run_coroutine_threadsafe(self._all(jobs), self._loop)
        if cancelled is None:
            return future.result()
        while True:
            try:
                return future.result(timeout=CANCEL_POLL_S)
            except TimeoutError:
                if future.done():
                    raise
                if cancelled.is_set():
                    future.cancel()
                    return []

    def one(self, job: Job[T]) -> T:
        """Run one job; raises its RequestError."""
        [result] = self.run([job])
        if isinstance(result, RequestError):
            raise result
        return result

    async def get(self, path: str) -> Any:
        """The JSON at a path; raises RequestError."""
        return await self._send("GET", path, None, None)

    async def post(self, path: str, body: Mapping[str, Any], *, tokens: int = 0) -> Any:
        """The JSON that answers a JSON body; raises RequestError.

        Args:
            tokens: most that it reads and writes, for `tokens_per_minute`.
        """
        return await self._send("POST", path, body, tokens)

    async def events(self, path: str, body: Mapping[str, Any], *, tokens: int = 0) -> AsyncGenerator[Any]:
        """Server-sent JSON events until [DONE]; raises RequestError. Leaving early closes the connection, and the server stops."""
        async with self._limited(tokens), self._errors(path), self._http.stream("POST", self.address + path, json=body) as response:
            if not response.is_success:
                await response.aread()
                raise self._refused(path, response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                yield json.loads(data)

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Around code that reads an answer: a shape other than expected becomes a RequestError."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self.lost(f"{what} is not as expected: {type(error).__name__}: {error}") from error

    def lost(self, detail: str) -> RequestError:
        """An answer that makes no sense."""
        return RequestError(absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"{self.engine} at {self.address}: {detail}"))

    async def _all(self, jobs: Sequence[Job[T]]) -> list[T | RequestError]:
        async def caught(job: Job[T]) -> T | RequestError:
            try:
                return await job()
            except RequestError as error:
                return error

        return list(await asyncio.gather(*map(caught, jobs)))

    async def retrying(self, job: Job[T]) -> T:
        """Do a job again, after a pause, when the server was overloaded or not reached; raises the last RequestError."""
        for attempt in itertools.count(1):
            try:
                return await job()
            except RequestError as error:
                if isinstance(error.__cause__, LimitReachedError):
                    raise
                pause_s = self._pause_s(error, attempt)
                if pause_s is None or attempt >= self._options.tries:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("counting has no end")

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None, tokens: int | None) -> Any:
        return await self.retrying(lambda: self._try(method, path, body, tokens))

    async def _try(self, method: str, path: str, body: Mapping[str, Any] | None, tokens: int | None) -> Any:
        async with self._limited(tokens), self._errors(path):
            async with asyncio.timeout(self._options.timeout_s):
                response = await self._http.request(method, self.address + path, json=body)
            if not response.is_success:
                raise self._refused(path, response)
            return response.json()

    def _pause_s(self, error: RequestError, attempt: int) -> float | None:
        """How long to wait before the next try; None when another makes no sense."""
        lost = error.absence
        if lost.reason == pb.ABSENCE_REASON_OVERLOADED and lost.HasField("retry_after"):
            asked_s = lost.retry_after.ToTimedelta().total_seconds()
            if asked_s > self._options.max_pause_s:
                return None
            self._not_before = max(self._not_before, time.monotonic() + asked_s)
            return asked_s
        # A request that may have been computed is not sent again: it failed by its content, or would cost twice.
        if lost.reason == pb.ABSENCE_REASON_OVERLOADED or isinstance(error.__cause__, httpx2.ConnectError):
            return float(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        return None

    @asynccontextmanager
    async def _limited(self, tokens: int | None) -> AsyncIterator[None]:
        """A slot, when it is the turn of a request of so many tokens; None for one that asks nothing of the model."""
        async with self._slots:
            if (wait_s := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            if tokens is not None:
                try:
                    await self._limits.turn(tokens)
                except LimitReachedError as error:
                    text = f"{self.engine} at {self.address}: {error}"
                    lost = absence(pb.ABSENCE_REASON_OVERLOADED, text, retryable=True, retry_after_s=error.retry_after_s)
                    raise RequestError(lost) from error
            yield

    @asynccontextmanager
    async def _errors(self, path: str) -> AsyncIterator[None]:
        """Turn whatever the connection does into a RequestError."""
        where = f"{self.engine} at {self.address}"
        try:
            yield
        except (TimeoutError, httpx2.TimeoutException) as error:
            text = f"{where}: no answer to {path} in time ({type(error).__name__})"
            raise RequestError(absence(pb.ABSENCE_REASON_INFRASTRUCTURE, text, retryable=True)) from error
        except httpx2.TransportError as error:
            text = f"{where} cannot be reached: {type(error).__name__}: {error}"
            raise RequestError(absence(pb.ABSENCE_REASON_INFRASTRUCTURE, text, retryable=True)) from error
        except (httpx2.RequestError, httpx2.InvalidURL, ValueError, RecursionError) as error:  # the last two: no JSON, or too deep
            raise self.lost(f"{path} gave no answer that can be read: {type(error).__name__}: {error}") from error

    def _refused(self, path: str, response: httpx2.Response) -> RequestError:
        where = f"{self.engine} at {self.address}: {path} answered {response.status_code}: {_message(response)}"
        status = response.status_code
        if status in (429, 503):
            retry_after_s = _retry_after_s(response.headers.get("retry-after"))
            return RequestError(absence(pb.ABSENCE_REASON_OVERLOADED, where, retryable=True, retry_after_s=retry_after_s), status)
        return RequestError(absence(pb.ABSENCE_REASON_INFRASTRUCTURE, where, retryable=status >= 500), status)


def gather(results: Sequence[T | RequestError]) -> list[T]:
    """The results, one an item.

    Raises:
        ItemsLostError: some requests failed; the others' results are in it.
    """
    if any(isinstance(result, RequestError) for result in results):
        raise ItemsLostError([result.absence if isinstance(result, RequestError) else result for result in results])
    return [result for result in results if not isinstance(result, RequestError)]


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, http: httpx2.AsyncClient) -> None:
    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await http.aclose()

    ended = asyncio.run_coroutine_threadsafe(end(), loop)
    if threading.current_thread() is thread:  # collected by the loop itself, which cannot wait for itself
        ended.add_done_callback(lambda _: loop.stop())
        return
    ended.result(STOP_TIMEOUT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(STOP_TIMEOUT_S)
    loop.close()


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, at most a day; a date or nonsense counts as none."""
    try:
        found = float(value or "")
    except ValueError:
        return None
    return None if math.isnan(found) else min(max(found, 0.0), LONGEST_RETRY_AFTER_S)


def _message(response: httpx2.Response) -> str:
    """What the server says is wrong, cut to one line; OpenAI-compatible servers say it in error.message."""
    text = response.text
    try:
        body = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        pass
    return " ".join(text.split())[:300]
