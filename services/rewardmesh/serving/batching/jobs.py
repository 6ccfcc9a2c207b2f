"""Jobs of another kind than batches that run on the threads that compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import grpc

from rewardmesh.serving.errors import CallError

T = TypeVar("T")


class Job:
    """Something to run once; what comes of it goes to a future of the event loop.

    Args:
        job: what to run.
        future: gets what it returns or raises.
        post: calls a function on the event loop.
    """

    def __init__(self, job: Callable[[], T], future: asyncio.Future[T], post: Callable[..., None]) -> None:
        def run() -> None:
            if future.cancelled():
                return
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - it is the caller's, who gets it
                post(_give, future, None, error)
            else:
                post(_give, future, result, None)

        self._run = run
        self._post = post
        self._future = future

    def __call__(self) -> None:
        """Run it; on the worker thread."""
        self._run()

    def refuse(self) -> None:
        """It is never run."""
        self._post(_give, self._future, None, CallError(grpc.StatusCode.UNAVAILABLE, "the server is stopping"))


def _give(future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
