"""What is counted of sandboxes."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

RUNS = Counter("rewardmesh_sandbox_runs", "Programs run in sandboxes, by how they ended.", ["runtime", "ending"])
STARTS = Counter("rewardmesh_sandbox_starts", "Sandboxes started; result is 'warm', 'cold' or 'failed'.", ["runtime", "result"])
START_SECONDS = Histogram("rewardmesh_sandbox_start_seconds", "Time until a sandbox's agent is ready.", ["runtime"], buckets=_SECONDS)
OVERHEAD_SECONDS = Histogram(
    "rewardmesh_sandbox_overhead_seconds",
    "From a request for a program, sandbox included, to its answer, less the time that the program ran.",
    ["runtime"],
    buckets=_SECONDS,
)
WARM = Gauge("rewardmesh_sandbox_warm", "Sandboxes that are started and wait for a program.", ["runtime"])
CACHE = Counter("rewardmesh_sandbox_cache", "Look-ups of compiled programs and of verdicts.", ["cache", "result"])
