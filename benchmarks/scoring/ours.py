"""Our reward server, started by its command and asked by the client through gRPC.

The server gets text and tokenises it, while the others get token ids: what that costs is in our figures and not in theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scoring.contender import IN_FLIGHT, Contender, ContenderError, Item, Setup, thread_environment
from benchmarks.scoring.process import ServerProcess, free_ports
from rewardmesh.client import CallFailed, ChannelOptions, Client, Score, message, sample
from rewardmesh.v1 import common_pb2 as pb

CHUNK = 64
START_S = 120.0
COMMAND = (sys.executable, "-m", "rewardmesh.cli")


class Ours(Contender):
    """`rewardmesh serve reward`."""

    name = "rewardmesh"
    title = "rewardmesh, through gRPC"
    variants = ({}, {"OMP_WAIT_POLICY": "PASSIVE"})

    def __init__(self, *, keep_results: bool = False, **fields: Any) -> None:
        """keep_results: whether the server may answer from its result cache; fields: further configuration of the server."""
        self._fields = fields
        self._keep_results = keep_results
        self._process: ServerProcess | None = None
        self._client: Client | None = None
        self.address = ""
        self.metrics_url = ""
        self.passes = 0

    def start(self, setup: Setup, variant: Mapping[str, str]) -> None:
        """See Contender."""
        fields: dict[str, Any] = {
            "model": str(setup.model), "threads": setup.threads, "dtype": setup.dtype, "device": setup.device, **self._fields
        }  # fmt: skip
        if not self._keep_results:
            fields |= no_result_cache("reward")
        environment = thread_environment(setup.threads, variant)
        log = setup.folder / f"{self._fields.get('name', self.name)}.log"
        self._process, self.address, self.metrics_url = serve("reward", fields, log, environment)
        self._client = Client(self.address, timeout_s=None, chunk_items=CHUNK, concurrency=IN_FLIGHT // CHUNK)

    def score(self, items: Sequence[Item]) -> list[float]:
        """See Contender."""
        if self._client is None:
            raise ContenderError("is not started")
        self.passes += 1
        return values(self._client.score(samples(items, str(self.passes))), fresh=not self._keep_results)

    def stop(self) -> None:
        """See Contender."""
        if self._client:
            self._client.close()
            self._client = None
        if self._process:
            self._process.stop()
            self._process = None

    @property
    def process(self) -> ServerProcess:
        """The running server."""
        if self._process is None:
            raise ContenderError("is not started")
        return self._process


def samples(items: Sequence[Item], mark: str) -> list[pb.Sample]:
    """Messages of the items; `mark` keeps ids and groups of one call apart from those of another."""
    return [
        sample(f"{mark}/{number}", [message("user", item.prompt)], item.completion, group_id=f"{mark}/{item.group}")
        for number, item in enumerate(items)
    ]


def values(scores: Sequence[Score], *, fresh: bool = True) -> list[float]:
    """Values of scores.

    Args:
        fresh: whether a score out of a cache is a mistake of the benchmark.

    Raises:
        ContenderError: a score is absent, or was not computed for this call.
    """
    found = []
    for score in scores:
        if score.value is None:
            raise ContenderError(f"{score.sample_id} has no score: {score.absence}")
        if fresh and score.provenance.cached:
            raise ContenderError(f"{score.sample_id} came out of a cache: the figure would not be one of scoring")
        found.append(score.value)
    return found


def serve(kind: str, fields: Mapping[str, Any], log: Path, environment: Mapping[str, str] | None = None) -> tuple[ServerProcess, str, str]:
    """Start `rewardmesh serve KIND` with these fields of its configuration.

    Returns:
        The process, its address, the URL of its metrics.
    """
    import yaml

    port, metrics_port = free_ports(2)
    document = {"port": port, "metrics_port": metrics_port, "drain_seconds": 2.0, "log_level": "warning", **fields}
    log.parent.mkdir(parents=True, exist_ok=True)
    config = log.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(document))
    process = ServerProcess([*COMMAND, "serve", kind, "--config", str(config)], log, environment)
    address = f"127.0.0.1:{port}"
    try:
        process.wait_ready(lambda: _healthy(address), START_S)
    except ContenderError:
        process.stop()
        raise
    return process, address, f"http://127.0.0.1:{metrics_port}/metrics"


def no_result_cache(kind: str) -> dict[str, Any]:
    """Configuration that switches the cache of results off, where the server has one."""
    from rewardmesh.cli.kinds import config_class

    return {"cache_bytes": 0} if "cache_bytes" in config_class(kind).model_fields else {}


def without_retries() -> ChannelOptions:
    """A channel that shows every refusal."""
    return ChannelOptions(max_attempts=1)


def _healthy(address: str) -> bool:
    try:
        with Client(address, timeout_s=2.0) as client:
            return client.health() == "SERVING"
    except CallFailed:
        return False
