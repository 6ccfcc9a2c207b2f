"""Items a second through gRPC, in batches and as one stream; every verdict of every round must be that of the first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.client import AsyncClient
from rewardmesh.client.results import Verdict
from rewardmesh.v1 import common_pb2 as pb


class DisagreementError(Exception):
    """A verdict is not what it was before."""


async def throughput(
    client: AsyncClient, verifier: str, samples: Sequence[pb.Sample], rounds: int, options: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """By way to call ("batches", "stream"): items/s (median, least, most) over rounds, after one round of warm-up.

    Raises:
        DisagreementError: a verdict differs from the first, is missing, or came twice.
    """
    seconds: dict[str, list[float]] = {"batches": [], "stream": []}
    expected: dict[str, float | None] = {}
    for number in range(-1, rounds):
        for way in list(seconds)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            if way == "batches":
                verdicts = await client.verify(samples, verifier, options=options)
            else:
                verdicts = [verdict async for verdict in client.stream_verify(samples, verifier, options=options)]
            taken = time.perf_counter() - began
            _compare(expected, verdicts, len(samples))
            if number >= 0:
                seconds[way].append(taken)
    return {
        way: {
            "items": len(samples),
            "items_per_s": len(samples) / statistics.median(taken),
            "least": len(samples) / max(taken),
            "most": len(samples) / min(taken),
        }
        for way, taken in seconds.items()
    }


def _compare(expected: dict[str, float | None], verdicts: Sequence[Verdict], count: int) -> None:
    found = {verdict.sample_id: verdict.value for verdict in verdicts}
    if len(verdicts) != count or len(found) != count:
        raise DisagreementError(f"{len(verdicts)} verdicts on {len(found)} of {count} samples")
    if not expected:
        expected.update(found)
    for name, value in found.items():
        if expected[name] != value:
            raise DisagreementError(f"{name} has {value}, and had {expected[name]} before")
