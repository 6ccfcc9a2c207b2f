"""The future of a unary call that a thread drives."""

import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc

from rewardmesh.client.balancing.bases import Future


class PendingCall(Future, grpc.Call):
    """What `future` of a unary method returns: the result, and what the attempt that ended the call knows of it."""

    def __init__(self, cancel: Callable[[], None], deadline: float | None) -> None:
        self._cancel = cancel
        self._deadline = deadline
        self._changed = threading.Condition()
        self._done = False
        self._response: Any = None
        self._error: BaseException | None = None
        self._call: Any = None
        self._callbacks: list[Callable[[], None]] = []

    def succeed(self, response: Any, call: Any) -> None:
        """The call has a result."""
        self._end(response, None, call)

    def fail(self, error: BaseException) -> None:
        """The call has none."""
        self._end(None, error, error if isinstance(error, grpc.RpcError) else None)

    def cancel(self) -> bool:
        """See `grpc.Future`."""
        if self.done():
            return False
        self._cancel()
        return True

    def cancelled(self) -> bool:
        """See `grpc.Future`."""
        return self._done and isinstance(self._error, grpc.FutureCancelledError)

    def done(self) -> bool:
        """See `grpc.Future`."""
        return self._done

    def running(self) -> bool:
        """See `grpc.Future`."""
        return not self._done

    def is_active(self) -> bool:
        """See `grpc.Call`."""
        return not self._done

    def time_remaining(self) -> float:
        """See `grpc.Call`; infinite without a deadline."""
        return float("inf") if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def result(self, timeout: float | None = None) -> Any:
        """See `grpc.Future`."""
        self._wait(timeout)
        if self._error is not None:
            raise self._error
        return self._response

    def exception(self, timeout: float | None = None) -> Any:
        """See `grpc.Future`."""
        self._wait(timeout)
        if isinstance(self._error, grpc.FutureCancelledError):
            raise self._error
        return self._error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """See `grpc.Future`."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """See `grpc.Future`."""
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """See `grpc.Call`."""
        with self._changed:
            if self._done:
                return False
            self._callbacks.append(callback)
            return True

    def code(self) -> grpc.StatusCode:
        """See `grpc.Call`; waits for the end."""
        self._wait(None)
        code: grpc.StatusCode = grpc.StatusCode.CANCELLED if self._call is None else self._call.code()
        return code

    def details(self) -> str:
        """See `grpc.Call`; waits for the end."""
        self._wait(None)
        return str(self._error) if self._call is None else self._call.details() or ""

    def initial_metadata(self) -> Any:
        """See `grpc.Call`; waits for the end."""
        self._wait(None)
        return () if self._call is None else self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """See `grpc.Call`; waits for the end."""
        self._wait(None)
        return () if self._call is None else self._call.trailing_metadata()

    def _wait(self, timeout: float | None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._done, timeout):
                raise grpc.FutureTimeoutError

    def _end(self, response: Any, error: BaseException | None, call: Any) -> None:
        with self._changed:
            self._response, self._error, self._call, self._done = response, error, call, True
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - as grpc does: one caller's callback does not keep the others from theirs
                traceback.print_exc()
