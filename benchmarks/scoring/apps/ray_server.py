"""Ray Serve with `@serve.batch`. Runs in the peers' environment: python ray_server.py PORT

BENCH_WORKERS replicas, which share the cores of the machine; requests hold one sequence and wait at most BENCH_WAIT_S for others.
"""

import os
import signal
import sys
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

CORES = int(os.environ["BENCH_THREADS"])
WORKERS = int(os.environ["BENCH_WORKERS"])


@serve.deployment(
    num_replicas=WORKERS,
    max_ongoing_requests=1024,
    ray_actor_options={"num_cpus": CORES // WORKERS, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(CORES // WORKERS)}}},
)
class Scorer:
    """Scores one sequence a request in padded batches."""

    def __init__(self) -> None:
        """Load the model in the replica."""
        from padded import PaddedScorer

        self.scorer = PaddedScorer()

    @serve.batch(max_batch_size=int(os.environ["BENCH_BATCH"]), batch_wait_timeout_s=float(os.environ["BENCH_WAIT_S"]))
    async def score(self, sequences: list[list[int]]) -> list[float]:
        """A batch."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, self.scorer, sequences)

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """One request."""
        ids: list[int] = (await request.json())["ids"][0]
        return {"scores": [await self.score(ids)]}


if __name__ == "__main__":
    # The proxy and controller ask for no cores; the replica's threads are limited by torch.
    ray.init(num_cpus=CORES, include_dashboard=False, logging_level="warning", object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment: Any = Scorer  # the decorator made it one
    serve.run(deployment.bind(), name="scorer", route_prefix="/score")
    print("ready", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()
