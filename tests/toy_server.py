"""A server whose service does what the sample ids say; also a program of its own, for tests that need real processes.

python tests/toy_server.py --log-format json --drain-seconds 5 [--backend 127.0.0.1:1234] [--otlp-endpoint http://127.0.0.1:4317]
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator

from rewardmesh.client import AsyncClient
from rewardmesh.serving import Server, ServerConfig, run_server
from rewardmesh.serving.context import CallContext, propagated_metadata, request_id
from rewardmesh.serving.errors import invalid_argument, overloaded
from rewardmesh.serving.logs import get_logger
from rewardmesh.v1 import reward_service_pb2 as api
from rewardmesh.v1 import reward_service_pb2_grpc as rpc

SERVICE = "rewardmesh.v1.RewardService"
log = get_logger(__name__)


class ToyConfig(ServerConfig):
    """A toy server; with a backend it passes every call on."""

    backend: str | None = None


class ToyServicer(rpc.RewardServiceServicer):
    """Obeys the id of the first sample: "boom", "refuse", "full", "slow 0.5" (seconds); else echoes it."""

    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        self.cancelled = asyncio.Event()
        self.closed = asyncio.Event()

    async def Score(self, request: api.ScoreRequest, context: CallContext) -> api.ScoreResponse:
        """See the proto."""
        log.info("scoring", items=len(request.samples))
        if self.config.backend:
            async with AsyncClient(self.config.backend) as client:
                reply = await client.reward.Score(request, metadata=propagated_metadata(context))
                return api.ScoreResponse.FromString(reply.SerializeToString())
        match request.samples[0].id.split() if request.samples else ["empty"]:
            case ["boom"]:
                raise RuntimeError("a bug")
            case ["refuse"]:
                raise invalid_argument("samples[0].id", "asks to be refused")
            case ["full"]:
                raise overloaded("queue is full", 1.5)
            case ["slow", seconds]:
                try:
                    await asyncio.sleep(float(seconds))
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
        reply = api.ScoreResponse()
        for sample in request.samples:
            reply.outcomes.add(sample_id=sample.id).provenance.replica = request_id(context)
        return reply

    async def StreamScores(
        self, requests: AsyncIterator[api.StreamScoresRequest], context: CallContext
    ) -> AsyncIterator[api.StreamScoresResponse]:
        """See the proto."""
        try:
            async for request in requests:
                for sample in request.samples:
                    if sample.id == "boom":
                        raise RuntimeError("a bug")
                    reply = api.StreamScoresResponse()
                    reply.outcome.sample_id = sample.id
                    yield reply
        finally:
            self.closed.set()


def toy_server(config: ToyConfig, servicer: ToyServicer | None = None) -> Server:
    """The server, not started."""
    server = Server(config, "toy", load=lambda: (12, 0.25))
    server.add_service(SERVICE, rpc.add_RewardServiceServicer_to_server, servicer or ToyServicer(config))
    return server


async def create_server(config: ToyConfig) -> Server:
    """As the services do it."""
    return toy_server(config)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ToyConfig.model_fields:
        parser.add_argument(f"--{name.replace('_', '-')}")
    run_server(create_server, ToyConfig.load(vars(parser.parse_args())), "toy")


if __name__ == "__main__":
    main()
