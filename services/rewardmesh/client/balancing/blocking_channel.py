"""A `grpc.Channel` over the replicas of a target: generated stubs take it as they take any other."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from rewardmesh.client.balancing.bases import StreamStream, StreamUnary, UnaryStream
from rewardmesh.client.balancing.blocking_pool import BlockingPool
from rewardmesh.client.balancing.blocking_unary import BlockingUnary
from rewardmesh.client.balancing.connectivity import overall_state
from rewardmesh.client.balancing.options import ChannelOptions
from rewardmesh.client.balancing.replica import Replica
from rewardmesh.client.balancing.statistics import ChannelStatistics

StateCallback = Callable[[grpc.ChannelConnectivity], None]


class BalancedChannel(grpc.Channel):
    """Spreads calls over replicas by load; retries and hedges unary ones. A stream stays with the replica it was opened on."""

    def __init__(self, target: str, options: ChannelOptions | None = None) -> None:
        self._pool = BlockingPool(target, options or ChannelOptions())
        self._watches: dict[StateCallback, _Watch] = {}

    @property
    def options(self) -> ChannelOptions:
        """As given."""
        return self._pool.options

    def statistics(self) -> ChannelStatistics:
        """Counts since the channel was opened."""
        return self._pool.statistics()

    def take_extra_attempt(self) -> bool:
        """Draw a token of the budget, for a stream that is to be taken up again."""
        return not self._pool.closed and self._pool.budget.take()

    def close(self) -> None:
        """Close all connections; calls in flight are cancelled."""
        for watch in self._watches.values():
            watch.stop()
        for channel in self._pool.shut():
            channel.close()

    def __enter__(self) -> "BalancedChannel":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool = False
    ) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        """See `grpc.Channel`."""
        arguments = method, request_serializer, response_deserializer, _registered_method
        return BlockingUnary(self._pool, method, lambda channel: _untyped(channel).unary_unary(*arguments))

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool = False
    ) -> "grpc.UnaryStreamMultiCallable[Any, Any]":
        """See `grpc.Channel`."""
        arguments = method, request_serializer, response_deserializer, _registered_method
        return _UnaryStream(self._pool, lambda channel: _untyped(channel).unary_stream(*arguments))

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool = False
    ) -> "grpc.StreamUnaryMultiCallable[Any, Any]":
        """See `grpc.Channel`."""
        arguments = method, request_serializer, response_deserializer, _registered_method
        return _StreamUnary(self._pool, lambda channel: _untyped(channel).stream_unary(*arguments))

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: bool = False
    ) -> "grpc.StreamStreamMultiCallable[Any, Any]":
        """See `grpc.Channel`."""
        arguments = method, request_serializer, response_deserializer, _registered_method
        return _StreamStream(self._pool, lambda channel: _untyped(channel).stream_stream(*arguments))

    def subscribe(self, callback: StateCallback, try_to_connect: bool | None = False) -> None:
        """Tell the state of the channel, now and when it changes: that of its best replica among those known now."""
        if self._pool.unresolved:
            self._pool.resolve_once()
        self._watches[callback] = _Watch(self._pool, callback, bool(try_to_connect))

    def unsubscribe(self, callback: StateCallback) -> None:
        """Stop telling."""
        watch = self._watches.pop(callback, None)
        if watch is not None:
            watch.stop()


class _Opening:
    """Opens streams on the replica that is least loaded then, and notes how they end."""

    def __init__(self, pool: BlockingPool, open_callable: Callable[[grpc.Channel], Any]) -> None:
        self._pool = pool
        self._open_callable = open_callable

    def _begin(self) -> tuple[Replica[grpc.Channel], Any]:
        pool = self._pool
        if pool.unresolved:
            pool.resolve_once()
        pool.add_call()
        replica = pool.choose_now()
        try:
            opened = replica.callables.get(self)
            if opened is None:
                opened = replica.callables[self] = self._open_callable(replica.opened())
        except BaseException:
            pool.abandoned(replica)
            raise
        return replica, opened

    def _open(self, *args: Any, how: str = "__call__", **kwargs: Any) -> Any:
        replica, opened = self._begin()
        try:
            call = getattr(opened, how)(*args, **kwargs)
        except BaseException:
            self._pool.abandoned(replica)
            raise

        def ended() -> None:
            self._pool.ended(replica, call.code(), call.trailing_metadata() or ())

        if not call.add_callback(ended):
            ended()
        return call


class _UnaryStream(_Opening, UnaryStream):
    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        call: Any = self._open(request, *args, **kwargs)
        return call


class _StreamStream(_Opening, StreamStream):
    def __call__(self, request_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        call: Any = self._open(request_iterator, *args, **kwargs)
        return call


class _StreamUnary(_Opening, StreamUnary):
    def __call__(self, request_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        return self.future(request_iterator, *args, **kwargs).result()

    def with_call(self, request_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        call: Any = self.future(request_iterator, *args, **kwargs)
        return call.result(), call

    def future(self, request_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        call: Any = self._open(request_iterator, *args, how="future", **kwargs)
        return call


class _Watch:
    """One subscription: the states of all replicas made one."""

    def __init__(self, pool: BlockingPool, callback: StateCallback, try_to_connect: bool) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._told: grpc.ChannelConnectivity | None = None
        self._states: dict[str, grpc.ChannelConnectivity] = {}
        self._ends: list[Callable[[], None]] = []
        for replica in pool.replicas:
            self._watch(replica.address, replica.opened(), try_to_connect)

    def stop(self) -> None:
        for end in self._ends:
            end()

    def _watch(self, address: str, channel: grpc.Channel, try_to_connect: bool) -> None:
        def changed(state: grpc.ChannelConnectivity) -> None:
            with self._lock:
                self._states[address] = state
                overall = overall_state(self._states.values())
                if overall is self._told:
                    return
                self._told = overall
            self._callback(overall)

        channel.subscribe(changed, try_to_connect)
        self._ends.append(lambda: channel.unsubscribe(changed))


def _untyped(channel: grpc.Channel) -> Any:
    """The channel without its type: the stubs of grpc leave out `_registered_method`, which generated code passes."""
    return channel
