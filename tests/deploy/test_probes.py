"""The probes of a manifest, asked of the server that its configuration starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.conftest import Manifests


async def test_a_server_answers_its_probes(base: Manifests, root: Path) -> None:
    from rewardmesh.verifier import Config, create_server

    (workload,) = [workload for workload in base.workloads if workload.component == "verifier"]
    flags = {"host": "127.0.0.1", "port": 0, "metrics_port": 0, "workers": 1}
    server = await create_server(Config.load(flags=flags, path=root / "deploy/base/config/verifier.yaml"))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                name = workload.containers[0][probe]["grpc"]["service"]
                reply = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING, name
    finally:
        await server.stop()
