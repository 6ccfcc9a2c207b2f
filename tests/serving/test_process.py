"""A server as a process: SIGTERM drains it, its log lines are JSON with the request id, bad settings end it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import pytest

from rewardmesh.client import AsyncClient
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api
from rewardmesh.v1.reward_service_pb2_grpc import RewardServiceStub


def request(name: str) -> api.ScoreRequest:
    return api.ScoreRequest(samples=[pb.Sample(id=name)])


async def first_refusal(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """Call until a call is refused."""
    async with asyncio.timeout(10):
        while True:
            try:
                await RewardServiceStub(channel).Score(request("late"))
            except grpc.aio.AioRpcError as error:
                return error.code()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_the_exit_code_is_0(spawn: Any, number: signal.Signals) -> None:
    toy = await spawn("--drain-seconds", "20")
    async with AsyncClient(toy.address) as client, grpc.aio.insecure_channel(toy.address) as late:
        call = asyncio.ensure_future(client.reward.Score(request("slow 5"), metadata=(("x-request-id", "in-flight"),)))
        await toy.wait_for("scoring")
        toy.process.send_signal(number)
        await toy.wait_for("draining")
        # New calls are served until health has said NOT_SERVING for a moment, then refused.
        assert await first_refusal(late) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert not call.done()
        assert (await call).outcomes[0].sample_id == "slow 5"
    assert await toy.finished() == 0
    assert toy.lines[-1]["event"] == "stopped"


async def test_log_lines_are_json_with_the_request_id(spawn: Any) -> None:
    toy = await spawn()
    async with AsyncClient(toy.address) as client:
        for name in ("a", "refuse", "boom"):
            call = client.reward.Score(request(name), metadata=(("x-request-id", f"id-{name}"),))
            await asyncio.gather(call, return_exceptions=True)
    assert await toy.terminate() == 0
    by_event = {(line["event"], line.get("request_id")): line for line in toy.lines}
    assert ("scoring", "id-a") in by_event
    refused = by_event["call refused", "id-refuse"]
    assert (refused["code"], refused["method"]) == ("INVALID_ARGUMENT", "rewardmesh.v1.RewardService/Score")
    failed = by_event["call failed", "id-boom"]
    assert failed["level"] == "error"
    assert "RuntimeError: a bug" in failed["exception"]
    assert all({"timestamp", "level", "service"} <= set(line) for line in toy.lines)
    assert "request_id" not in by_event["stopped", None]
