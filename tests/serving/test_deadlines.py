"""What a batch computes knows until when anybody wants it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable, Sequence

import pytest

from rewardmesh.serving.batching import Batcher, Work
from rewardmesh.serving.deadlines import until, wanted_until


def left_s(lane: Hashable, payloads: Sequence[float | None]) -> list[tuple[float, int]]:
    return [(wanted_until() - time.monotonic(), 1) for _ in payloads]


@pytest.mark.parametrize(("timeouts_s", "expected_s"), [([20.0], 20.0), ([None], math.inf), ([20.0, 60.0], 60.0), ([20.0, None], math.inf)])
async def test_the_latest_deadline_of_a_batch_counts(timeouts_s: list[float | None], expected_s: float) -> None:
    batcher: Batcher[float | None, float] = Batcher(left_s, service="test", budget_tokens=100, max_queue_tokens=1000, max_delay_seconds=0.3)
    work = Work[float | None](None, lane="a", group="g", tokens=50)
    try:
        calls = [batcher.submit([work], timeout_s=timeout_s) for timeout_s in timeouts_s]
        done = [found for call in await asyncio.gather(*calls) for found in call]
    finally:
        await batcher.close()
    assert [found.result for found in done] == [pytest.approx(expected_s, abs=2.0)] * len(timeouts_s)


def test_blocks_lie_within_one_another() -> None:
    with until(5.0):
        with until(3.0):
            assert wanted_until() == 3.0
        assert wanted_until() == 5.0
    assert wanted_until() == math.inf
