"""A panel's server: SERVING while every one of its rules can give verdicts with the members that can be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from grpc_health.v1 import health_pb2

from rewardmesh.panel.config import PanelConfig
from rewardmesh.panel.ledger import SERVICE
from rewardmesh.panel.members import Member
from rewardmesh.panel.rules import Answerer
from rewardmesh.serving import Server
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)


class PanelServer(Server):
    """Watches the members' health and tells its own by it."""

    def __init__(self, config: PanelConfig, members: Mapping[str, Member], answerers: Sequence[Answerer]) -> None:
        super().__init__(config, "panel")
        self._every_s = config.health_seconds
        self._members = members
        self._answerers = answerers
        self._watching: asyncio.Task[None] | None = None
        self.on_stop(self._close)

    async def start(self) -> None:
        """Bind, ask the members for their health once, and go on asking."""
        await super().start()
        self._watching = asyncio.create_task(self._watch(await self._look(None)))

    async def stop(self) -> None:
        """Drain; the health says NOT_SERVING from now on."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        await super().stop()

    async def _watch(self, before: bool) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            before = await self._look(before)

    async def _look(self, before: bool | None) -> bool:
        names = list(self._members)
        found = await asyncio.gather(*(self._members[name].is_up() for name in names))
        up = [name for name, is_up in zip(names, found, strict=True) if is_up]
        serving = all(answerer.suffices(up) for answerer in self._answerers)
        if serving != before:
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", SERVICE):
                await self._health.set(name, status)
            log.info("members", serving=serving, up=up, down=[name for name in names if name not in up])
        return serving

    async def _close(self) -> None:
        await asyncio.gather(*(member.close() for member in self._members.values()))
