"""What a check loads once a process is not on a sample's account, and what comes after it is."""

from typing import Any

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.loading import loading


async def test_loading_takes_longer_than_a_sample_may(start: Any, request_of: Any, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), item_timeout_seconds=1.0)
    first, second = (await stub.Verify(request_of("loads", ["good", "bad"], on_timeout="absent"), timeout=60)).outcomes
    assert first.verdict.status == verifier_pb.VERDICT_STATUS_PASS
    assert second.absence.reason == pb.ABSENCE_REASON_DEADLINE
    assert "limit of 1 s" in second.absence.detail


def test_nobody_is_told_outside_of_a_worker() -> None:
    with loading():
        pass
