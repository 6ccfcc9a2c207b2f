"""FastAPI, LitServe and Ray Serve: three servers that answer the same POST, in the same virtual environment.

What they needed to do their best:
- A batch may be large (BENCH_BATCH): the scorer sorts it by length and cuts it into forward passes of BENCH_MICRO sequences, and
  BENCH_WORKERS batches run side by side on an equal part of the cores. Both are chosen in the calibration, with FastAPI, and used for
  Triton, Ray Serve and LitServe too, which run the same scorer. Sorting wastes far less on padding than batches as they come.
- Ray Serve: `max_ongoing_requests` above its default of 5, else no batch is larger; the replica owns all cores, or torch gets one thread.
- LitServe: `timeout=False`, else requests that wait longer than 30 s are given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scoring.contender import Contender, Item, Setup, interpreter, thread_environment
from benchmarks.scoring.load import post_batches
from benchmarks.scoring.process import ServerProcess, free_port, http_ready

ENVIRONMENT = ".venv-peers"
START_S = 240.0
APPS = Path(__file__).parents[1] / "apps"
MICRO_VARIANTS = (
    {"micro": "8", "workers": "1"},
    {"micro": "4", "workers": "1"},
    {"micro": "16", "workers": "1"},
    {"micro": "8", "workers": "2"},
    {"micro": "4", "workers": "2"},
)
BATCH = 64


def padded_environment(setup: Setup, variant: Mapping[str, str]) -> dict[str, str]:
    """What `padded.PaddedScorer` reads."""
    return {
        **thread_environment(setup.threads, variant),
        "BENCH_MODEL": str(setup.model),
        "BENCH_THREADS": str(setup.threads),
        "BENCH_DTYPE": setup.dtype,
        "BENCH_DEVICE": setup.device,
        "BENCH_MICRO": variant.get("micro", "8"),
        "BENCH_WORKERS": variant.get("workers", "1"),
        "BENCH_BATCH": str(BATCH),
        "BENCH_WAIT_S": "0.01",
        "PYTHONPATH": str(APPS),
        "HF_HUB_OFFLINE": "1",
    }


class HttpPeer(Contender):
    """A server of our peers' environment: `app` is its file, a request holds `request` sequences."""

    app: str
    request = 1
    health = "/health"
    variants = MICRO_VARIANTS
    calibrated_as = "fastapi"

    def __init__(self) -> None:
        self._process: ServerProcess | None = None
        self._address = ""
        self._url = ""

    def available(self) -> None:
        """See Contender."""
        interpreter(ENVIRONMENT)

    def start(self, setup: Setup, variant: Mapping[str, str]) -> None:
        """See Contender."""
        port = free_port()
        self._address = f"http://127.0.0.1:{port}"
        command = [interpreter(ENVIRONMENT), str(APPS / self.app), str(port)]
        environment = {**padded_environment(setup, variant), **self.environment(setup)}
        self._process = ServerProcess(command, setup.folder / f"{self.name}.log", environment, setup.folder)
        self._process.wait_ready(self.ready(self._process), START_S)

    def environment(self, setup: Setup) -> dict[str, str]:
        """What this server needs on top."""
        return {}

    def ready(self, process: ServerProcess) -> Any:
        """How to know that it answers."""
        return http_ready(f"{self._address}{self.health}")

    @property
    def path(self) -> str:
        """Where scores are asked for."""
        return "/score"

    def score(self, items: Sequence[Item]) -> list[float]:
        """See Contender."""
        return post_batches(
            f"{self._address}{self.path}", items, self.request, lambda ids: {"ids": ids}, lambda reply: list(reply["scores"])
        )

    def stop(self) -> None:
        """See Contender."""
        if self._process:
            self._process.stop()
            self._process = None


class FastAPI(HttpPeer):
    """FastAPI and uvicorn with a micro-batching queue; a request holds the sequences of a prompt, as trainers send them."""

    name = "fastapi"
    title = "FastAPI, padded batches"
    app = "fastapi_server.py"
    request = 4


class LitServe(HttpPeer):
    """LitServe's dynamic batching."""

    name = "litserve"
    title = "LitServe"
    app = "litserve_server.py"

    @property
    def path(self) -> str:
        """LitServe's own name for it."""
        return "/predict"


class RayServe(HttpPeer):
    """Ray Serve's `@serve.batch`."""

    name = "ray"
    title = "Ray Serve, `@serve.batch`"
    app = "ray_server.py"

    def environment(self, setup: Setup) -> dict[str, str]:
        """Quiet, and nothing sent anywhere."""
        return {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"}

    def ready(self, process: ServerProcess) -> Any:
        """It says so once the deployment runs."""
        return lambda: "ready" in process.log_tail(50).splitlines()
