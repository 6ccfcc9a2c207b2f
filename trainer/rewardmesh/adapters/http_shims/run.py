"""A shim as a process of its own: serve until SIGTERM or SIGINT, say now and then what was done, drain."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import asdict

import uvloop

from rewardmesh.adapters.http_shims.app import shim_app
from rewardmesh.adapters.http_shims.config import ShimConfig
from rewardmesh.adapters.http_shims.scoring import Scorer
from rewardmesh.serving.http import HttpListener
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.metrics import start_metrics_server

log = get_logger(__name__)

REPORT_SECONDS = 30.0


def run_shim(config: ShimConfig) -> None:
    """Run a shim in this process; returns when it has drained. Raises OSError when the port is taken."""
    uvloop.run(_serve(config))


async def _serve(config: ShimConfig) -> None:
    wanted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, wanted.set)
    async with AsyncExitStack() as stack:
        if config.metrics_port is not None:
            metrics_port, close = start_metrics_server(config.host, config.metrics_port)
            stack.push_async_callback(asyncio.to_thread, close)
            log.info("serving metrics", address=f"{config.host}:{metrics_port}")
        scorer = Scorer(config)
        stack.push_async_callback(scorer.close)
        app = shim_app(config, scorer)
        listener = HttpListener(app, host=config.host, port=config.port, drain_seconds=config.drain_seconds)
        await listener.start()
        if not await scorer.serving():
            log.warning("the service behind does not answer yet", target=config.target)
        log.info("shim", url=f"http://{listener.address}", behind=config.behind, target=config.target, on_absence=config.on_absence)
        reporting = asyncio.create_task(_report(scorer))
        await wanted.wait()
        log.info("draining", seconds=config.drain_seconds)
        await listener.stopped()
        reporting.cancel()
        log.info("stopped", **asdict(scorer.counts))


async def _report(scorer: Scorer) -> None:
    """A line when something was done since the last one."""
    calls = 0
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        if scorer.counts.calls != calls:
            calls = scorer.counts.calls
            log.info("so far", **asdict(scorer.counts))
