"""A replica that can be killed and frozen: a reward server in a process of its own, without the service's imports.

python tests/client/replica_process.py [--seconds 0.01]        prints its port
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from rewardmesh.v1 import common_pb2, reward_service_pb2, reward_service_pb2_grpc


class Scorer(reward_service_pb2_grpc.RewardServiceServicer):
    """Scores a sample by the length of its completion, after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def Score(self, request: Any, context: Any) -> reward_service_pb2.ScoreResponse:
        """All samples of the request."""
        await asyncio.sleep(self.seconds)
        return reward_service_pb2.ScoreResponse(outcomes=[outcome(sample) for sample in request.samples])

    async def StreamScores(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Sample by sample."""
        async for request in requests:
            for sample in request.samples:
                await asyncio.sleep(self.seconds)
                yield reward_service_pb2.StreamScoresResponse(outcome=outcome(sample))


def outcome(sample: common_pb2.Sample) -> common_pb2.Outcome:
    """The score of one sample."""
    return common_pb2.Outcome(sample_id=sample.id, reward=common_pb2.Reward(value=len(sample.completion.text)))


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.0)
    server = grpc.aio.server()
    reward_service_pb2_grpc.add_RewardServiceServicer_to_server(Scorer(parser.parse_args().seconds), server)
    servicer = health.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
