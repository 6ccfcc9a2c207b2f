"""Unary methods over asyncio channels."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

from rewardmesh.client.balancing.aio_call import BalancedUnaryCall
from rewardmesh.client.balancing.aio_drive import Sending
from rewardmesh.client.balancing.aio_pool import AioPool
from rewardmesh.client.balancing.bases import AioUnaryUnary
from rewardmesh.client.balancing.race import Attempt, may_be_sent_twice

Channel = aio.Channel


class AioUnary(AioUnaryUnary):
    """One unary method over all replicas."""

    def __init__(self, pool: AioPool, method: str, open_callable: Callable[[Channel], Any]) -> None:
        self._pool = pool
        self._method = method
        self._open_callable = open_callable
        self._twice = may_be_sent_twice(method)

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> "BalancedUnaryCall":
        """See `grpc.aio.UnaryUnaryMultiCallable`."""
        how = {"metadata": metadata, "credentials": credentials, "wait_for_ready": wait_for_ready, "compression": compression}
        return BalancedUnaryCall(Sending(self._pool, self._method, self._twice, timeout, self._sent, request, how))

    def _sent(self, attempt: Attempt[Channel], request: Any, timeout_s: float | None, how: dict[str, Any]) -> Any:
        callables = attempt.replica.callables
        opened = callables.get(self)
        if opened is None:
            opened = callables[self] = self._open_callable(attempt.replica.opened())
        return opened(request, timeout=timeout_s, **how)
