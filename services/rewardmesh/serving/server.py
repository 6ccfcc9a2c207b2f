"""The life of a server: bind, report health, serve, drain on SIGTERM, exit 0."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rewardmesh.serving.config import ServerConfig
from rewardmesh.serving.interceptor import CallInterceptor, Load
from rewardmesh.serving.logs import configure_logging, get_logger
from rewardmesh.serving.memory import keep_freed_memory
from rewardmesh.serving.metrics import start_metrics_server
from rewardmesh.serving.tracing import configure_tracing, server_interceptor

log = get_logger(__name__)

C = TypeVar("C", bound=ServerConfig)

LIVENESS = "liveness"
"""Health name that reports only whether the event loop lives; readiness is each service's own name."""


NOTICE_SECONDS = 0.25
"""Time between NOT_SERVING and the refusal of new calls when a process is told to stop."""


class Server:
    """One process's gRPC server with health, reflection and metrics.

    Args:
        config: addresses, limits, logging.
        name: short name of the service ("reward"), for logs and traces.
        load: gives (tokens queued, estimated wait in seconds), sent in the trailers of every reply.
    """

    def __init__(self, config: ServerConfig, name: str, load: Load = lambda: (0, 0.0)) -> None:
        self.config = config
        self.name = name
        self.address = ""
        self.metrics_address = ""
        options = [
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1e3)),
            ("grpc.max_connection_age_grace_ms", int(config.drain_seconds * 1e3)),
            ("grpc.so_reuseport", 0),
            # Clients probe silent connections every 10 s; gRPC's default breaks them off after a few probes.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]
        self._grpc = grpc.aio.server(interceptors=[server_interceptor(), CallInterceptor(load)], options=options)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._close_metrics: Callable[[], None] | None = None
        self._stopped = False

    def add_service(self, full_name: str, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Register a servicer under its full name ("rewardmesh.v1.RewardService")."""
        add_to_server(servicer, self._grpc)
        self._names.append(full_name)

    def on_stop(self, close: Callable[[], Awaitable[None]]) -> None:
        """Run `close` after in-flight work has finished; last added runs first."""
        self._closers.append(close)

    async def start(self) -> None:
        """Bind both ports and report SERVING.

        Raises:
            RuntimeError: an address is taken.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc)
        port = self._grpc.add_insecure_port(f"{self.config.host}:{self.config.port}")
        self.address = f"{self.config.host}:{port}"
        try:
            metrics_port, self._close_metrics = start_metrics_server(self.config.host, self.config.metrics_port)
        except OSError as error:
            raise RuntimeError(f"cannot serve metrics on {self.config.host}:{self.config.metrics_port}: {error.strerror}") from error
        self.metrics_address = f"{self.config.host}:{metrics_port}"
        await self._grpc.start()
        for name in ("", LIVENESS, *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("serving", name=self.name, address=self.address, metrics=self.metrics_address, replica=self.config.replica)

    async def stop(self) -> None:
        """Drain: NOT_SERVING at once, in-flight calls get `drain_seconds`, then everything closes. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        await self._health.enter_graceful_shutdown()
        await self._grpc.stop(self.config.drain_seconds)
        for close in reversed(self._closers):
            await close()
        if self._close_metrics:
            await asyncio.to_thread(self._close_metrics)
        log.info("stopped", name=self.name)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain."""
        wanted = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, wanted.set)
        await self.start()
        await wanted.wait()
        log.info("draining", name=self.name, seconds=self.config.drain_seconds)
        await self._health.enter_graceful_shutdown()
        # Clients that watch the health go elsewhere before calls are refused; one on its way just then would be cancelled.
        await asyncio.sleep(NOTICE_SECONDS)
        await self.stop()


def run_server(create: Callable[[C], Awaitable[Server]], config: C, name: str) -> None:
    """Run one server in this process until it is told to stop; returns when everything is closed."""
    configure_logging(name, config.log_format, config.log_level)
    keep_freed_memory()
    # Modules stay for good. The garbage collector would visit hundreds of thousands of their objects every now and then, and hold up
    # the event loop for a third of a second each time. What is made from here on (models, their versions) is collected as ever.
    gc.freeze()
    # Tokenising and computing threads take turns with the event loop, which needs several turns to answer a call.
    sys.setswitchinterval(0.001)
    provider = configure_tracing(name, config.replica, config.otlp_endpoint)

    async def main() -> None:
        server = await create(config)
        await server.run()

    uvloop.run(main())
    if provider:
        provider.shutdown()
    sys.stderr.flush()
