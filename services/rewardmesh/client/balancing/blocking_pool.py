"""The pool over grpc's blocking channels. It has no thread of its own: what is due (probes, new addresses) is begun by the next call."""

import logging
import threading
from typing import Any

import grpc

from rewardmesh.client.balancing.options import ChannelOptions, channel_arguments
from rewardmesh.client.balancing.pool import Pool
from rewardmesh.client.balancing.probe import PROBE_METHOD, PROBE_TIMEOUT_S, is_alive, probe_request
from rewardmesh.client.balancing.replica import Replica

log = logging.getLogger(__name__)


class BlockingPool(Pool[grpc.Channel]):
    """Replicas with blocking channels."""

    def __init__(self, target: str, options: ChannelOptions) -> None:
        self._resolving = threading.Lock()
        super().__init__(target, options)

    def resolve_once(self) -> None:
        """Resolve in the calling thread if no address is known; several callers at once wait for one of them."""
        with self._resolving:
            if self.unresolved:
                self._resolve_logged()

    def _open(self, target: str) -> grpc.Channel:
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        return grpc.insecure_channel(target, options=channel_arguments(self.options))

    def _close(self, channel: grpc.Channel) -> None:
        # Not here: this may be a callback in a thread of that very channel.
        threading.Thread(target=channel.close, daemon=True, name="rewardmesh-client-close").start()

    def _probe(self, replica: Replica[grpc.Channel]) -> None:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = replica.opened().unary_unary(PROBE_METHOD)
        try:
            future: Any = check.future(probe_request(self.options.health_service), timeout=PROBE_TIMEOUT_S)
        except ValueError:  # closed meanwhile
            self.probed(replica, False)
            return
        future.add_done_callback(lambda call: self.probed(replica, is_alive(call.code())))

    def _resolve_in_background(self) -> None:
        if not self.unresolved:  # else `resolve_once` does it
            threading.Thread(target=self._resolve_logged, daemon=True, name="rewardmesh-client-resolve").start()

    def _resolve_logged(self) -> None:
        addresses: list[str] = []
        try:
            addresses = self.resolve()
        except OSError as error:
            log.warning("cannot resolve %s: %s", self.target, error)
        finally:
            self.resolved(addresses)
