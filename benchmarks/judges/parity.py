"""One judge computed in our process and by a real OpenAI-compatible server (vLLM on the CPU): the same verdicts?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from benchmarks.judges.bias import service_pairs
from benchmarks.judges.serving import Floats, compare, judge
from benchmarks.scoring.contender import interpreter
from benchmarks.scoring.process import ServerProcess, free_port, http_ready
from rewardmesh.v1 import judge_service_pb2 as api

ENVIRONMENT = ".venv-vllm"
START_S = 240.0
KV_CACHE_BYTES = 2**26
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "chat": {"engine": "openai", "engine_options": {"api": "chat", "exact_labels": True}},
    "completions": {"engine": "openai", "engine_options": {"api": "completions"}},
    "token ids": {"engine": "vllm-server"},
}
"""How the server is asked: messages, token ids by the OpenAI interface, and our engine for vLLM itself."""


async def measure(model: Path, templates: Path, folder: Path) -> dict[str, Any]:
    """Greatest and mean |difference| of p_a in either order, by how the server is asked.

    Raises:
        ContenderError: the environment of vLLM is not there (`make peers`), or the server does not start; with the end of its log.
    """
    pairs = service_pairs()
    async with judge(model, templates) as client:
        ours = _both(await compare(client, pairs))
    found: dict[str, Any] = {"pairs": len(pairs), "spread": float(ours.std())}
    with vllm_server(model, folder) as address:
        for name, engine in ENGINES.items():
            async with judge(model, templates, engine_address=address, **engine) as client:
                gaps = np.abs(_both(await compare(client, pairs)) - ours)
            found[name] = {"max": float(gaps.max()), "mean": float(gaps.mean())}
    return found


@contextmanager
def vllm_server(model: Path, folder: Path) -> Iterator[str]:
    """Address of vLLM's OpenAI server with one small model, as a process of its own in `folder`."""
    # Beside a qwen2 config, vLLM would put that architecture's own tokenizer class in the place of the one that was saved.
    tokenizer = folder / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    PreTrainedTokenizerFast.from_pretrained(model).save_pretrained(tokenizer)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [interpreter(ENVIRONMENT), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--tokenizer", str(tokenizer)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    command += ["--max-num-batched-tokens", "2048", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    quiet = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    server = ServerProcess(command, folder / "vllm.log", quiet)
    try:
        server.wait_ready(http_ready(f"{address}/health"), START_S)
        yield address
    finally:
        server.stop()


def _both(preferences: Sequence[api.Preference]) -> Floats:
    return np.array([(each.p_a_as_given, each.p_a_swapped) for each in preferences])
