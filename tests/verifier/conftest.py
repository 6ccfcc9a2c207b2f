"""A verifier server on loopback, and the misbehaving verifiers it may load."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from rewardmesh.serving import Server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.v1.verifier_service_pb2_grpc import VerifierServiceStub
from rewardmesh.verifier import Config, create_server

Start = Callable[..., Awaitable[tuple[Server, Any]]]


@pytest.fixture(name="hostile")
def hostile_package(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the package of misbehaving verifiers, importable here and in workers."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)
    return "hostile"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a server with the given configuration; gives it and a stub. Stops everything afterwards."""
    servers: list[Server] = []
    channels: list[Any] = []

    async def start_one(**fields: Any) -> tuple[Server, Any]:
        server = await create_server(Config(**({"workers": 1, "port": 0} | fields)))
        servers.append(server)
        await server.start()
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channel = grpc.aio.insecure_channel(server.address, options=options)
        channels.append(channel)
        return server, VerifierServiceStub(channel)

    yield start_one
    for channel in channels:
        await channel.close()
    for server in servers:
        await server.stop()


@pytest.fixture
def request_of() -> Callable[..., verifier_pb.VerifyRequest]:
    """Builds a request: verifier, completions, references (of every sample), options."""

    def build(verifier: str, completions: list[str], *references: str, **options: Any) -> verifier_pb.VerifyRequest:
        samples = [pb.Sample(id=str(n), completion=pb.Completion(text=text), references=references) for n, text in enumerate(completions)]
        request = verifier_pb.VerifyRequest(verifier=verifier, samples=samples)
        if options:
            request.options.update(options)
        return request

    return build


@pytest.fixture
def worker_pids() -> Callable[[], list[int]]:
    """Lists the live worker processes that this process started."""

    def find() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"rewardmesh.verifier.worker" in command and parent == os.getpid():
                found.append(int(entry.name))
        return sorted(found)

    return find
