"""LitServe with its dynamic batching. Runs in the peers' environment: python litserve_server.py PORT

A request holds one sequence, which is what LitServe's batching works on; it waits at most BENCH_WAIT_S for others.
"""

import os
import sys
from typing import Any

import litserve
from padded import PaddedScorer


class Scorer(litserve.LitAPI):
    """One sequence a request, a padded batch a call of `predict`."""

    def setup(self, device: str) -> None:
        """Load the model in the worker process."""
        self.scorer = PaddedScorer()

    def decode_request(self, request: dict[str, Any]) -> list[int]:
        """Token ids."""
        ids: list[int] = request["ids"][0]
        return ids

    def batch(self, inputs: list[list[int]]) -> list[list[int]]:
        """Sequences stay a list: the scorer pads them."""
        return inputs

    def predict(self, inputs: list[list[int]]) -> list[float]:
        """Scores of a batch."""
        return self.scorer(inputs)

    def unbatch(self, output: list[float]) -> list[float]:
        """One score a request."""
        return output

    def encode_response(self, output: float) -> dict[str, list[float]]:
        """The reply."""
        return {"scores": [output]}


if __name__ == "__main__":
    api = Scorer(max_batch_size=int(os.environ["BENCH_BATCH"]), batch_timeout=float(os.environ["BENCH_WAIT_S"]))
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]), timeout=False, healthcheck_path="/health"
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
