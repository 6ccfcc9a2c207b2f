"""What Prometheus reads after a few calls: every promised name, valid text, the right counts."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from rewardmesh.client import AsyncClient, sample
from rewardmesh.reward import RewardConfig, create_server

PROMISED = {
    "rewardmesh_requests_total": {"service", "method", "code"},
    "rewardmesh_items_total": {"service", "model", "outcome"},
    "rewardmesh_queue_seconds_bucket": {"service", "le"},
    "rewardmesh_compute_seconds_bucket": {"service", "le"},
    "rewardmesh_batch_tokens_bucket": {"service", "le"},
    "rewardmesh_batch_items_bucket": {"service", "le"},
    "rewardmesh_queue_tokens": {"service"},
    "rewardmesh_inflight_items": {"service"},
    "rewardmesh_model_info": {"service", "model", "version", "fingerprint"},
    "rewardmesh_reward_bucket": {"model", "le"},
}


def scrape(address: str) -> list[Metric]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        return list(text_string_to_metric_families(reply.read().decode()))


async def test_metrics_after_calls(reward_model: Path) -> None:
    server = await create_server(RewardConfig(model=str(reward_model), name="counted", drain_seconds=2.0))
    await server.start()
    async with AsyncClient(server.address) as client:
        await client.score([sample("a", "2 + 2", "4"), sample("b", "2 + 2", "5"), sample("c", "2 + 2", "")])
    families = await asyncio.to_thread(scrape, server.metrics_address)
    await server.stop()
    samples = [one for family in families for one in family.samples]
    labels = {one.name: set(one.labels) for one in samples}
    for name, wanted in PROMISED.items():
        assert labels.get(name) == wanted, name
    outcomes = {
        one.labels["outcome"]: one.value for one in samples if one.name == "rewardmesh_items_total" and one.labels["model"] == "counted"
    }
    assert outcomes == {"present": 2.0, "invalid_input": 1.0}
    [rewards] = [one.value for one in samples if one.name == "rewardmesh_reward_count" and one.labels["model"] == "counted"]
    assert rewards == 2.0, "an absent reward is no reward of 0"
    idle = [one.value for one in samples if one.name in ("rewardmesh_queue_tokens", "rewardmesh_inflight_items")]
    assert set(idle) == {0.0}
