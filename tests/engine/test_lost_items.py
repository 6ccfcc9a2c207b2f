"""An engine that says itself which items it lost: the others keep their results, and nothing is computed twice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rewardmesh.serving.batching import Batcher, Work
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb


async def test_each_item_has_its_result_or_its_own_absence() -> None:
    batches: list[list[int]] = []
    busy = absence(pb.ABSENCE_REASON_OVERLOADED, "busy", retryable=True, retry_after_s=3)

    def compute(lane: Hashable, payloads: Sequence[int]) -> list[tuple[int, int]]:
        batches.append(list(payloads))
        raise ItemsLostError([busy if payload % 2 else (payload * 10, 1) for payload in payloads])

    batcher: Batcher[int, int] = Batcher(compute, service="lost-items", budget_tokens=100, max_queue_tokens=1000)
    done = await batcher.submit([Work(number, "lane", "group", 1) for number in range(4)])
    await batcher.close()
    assert [item.result for item in done] == [0, None, 20, None]
    assert [item.absence for item in done] == [None, busy, None, busy]
    assert sorted(payload for batch in batches for payload in batch) == [0, 1, 2, 3], "each asked once"
