"""A gateway with HTTP for the tests of several files: in this process, with a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx

from rewardmesh.gateway import Config, create_server
from rewardmesh.gateway.http import GatewayHttpServer
from rewardmesh.v1.mesh_service_pb2_grpc import MeshServiceStub

ONE = "name: one\nsignals: {correct: {verifier: math}}\nreward: correct\n"


@dataclass
class Running:
    """A running gateway: its server, a client of its HTTP, and the stub of its gRPC service."""

    server: GatewayHttpServer
    http: httpx.AsyncClient
    stub: Any


@asynccontextmanager
async def http_gateway(folder: Path, backends: dict[str, str], *programs: str, **config: Any) -> AsyncIterator[Running]:
    """Start a gateway over programs, written to a folder."""
    for index, text in enumerate(programs):
        (folder / f"{index}.yaml").write_text(text)
    fields: dict[str, Any] = {"programs": [folder], "backends": backends, "replica": "gate-0", "http_port": 0, "drain_seconds": 2} | config
    server = await create_server(Config(**fields))
    assert isinstance(server, GatewayHttpServer)
    await server.start()
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://{server.http_address}", timeout=20) as client,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            yield Running(server, client, MeshServiceStub(channel))
    finally:
        await server.stop()


def body(*texts: str, **fields: Any) -> dict[str, Any]:
    """A request over samples s0, s1, ... of one group."""
    samples = [{"id": f"s{i}", "prompt": "Question?", "completion": text, "group_id": "g"} for i, text in enumerate(texts)]
    return {"samples": samples, "timeout_seconds": 10} | fields
