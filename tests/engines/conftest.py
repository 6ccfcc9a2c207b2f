"""Real engines in their own virtual environments (`make engines-env`); without them these tests are skipped, in CI they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardmesh.cli.ports import free_port

from . import asking

ROOT = Path(__file__).parent.parent.parent
START_S = 240.0
"""Until an engine that is started beside several others on two cores must answer."""

KV_CACHE_BYTES = 2**26
TOLERANCE = 1e-3
"""Largest difference of scores and log-probabilities between engines."""
TAKEN: set[int] = set()
"""Ports that were given out."""


def environment(name: str) -> Path:
    """The Python of an engine's environment."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        missing = f"{python.parent.parent} is not there: run `make engines-env`"
        if os.environ.get("REWARDMESH_REQUIRE_ENGINES"):
            pytest.fail(missing)
        pytest.skip(missing)
    return python


class EngineProcess:
    """A process that answers HTTP or gRPC on a port of its own; its output goes to a file."""

    def __init__(self, log: Path, *command: str | Path, **variables: str) -> None:
        self.log = log
        self.command = " ".join(map(str, command))
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        with log.open("wb") as stream:
            # A group of its own: vLLM's workers end with it.
            self.process = subprocess.Popen(
                [*map(str, command)], stdout=stream, stderr=stream, env=os.environ | quiet | variables, start_new_session=True
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Until it is ready; fails with the end of its log when it ends or takes too long."""
        until = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{self.command} is not ready: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and its children at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and its children with it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()


class VllmProcess(EngineProcess):
    """vLLM's OpenAI server with one small model."""

    def __init__(self, python: Path, log: Path, model: Path, *arguments: str, port: int = 0) -> None:
        self.python, self.model, self.arguments = python, model, arguments
        self.port = port or free_port("127.0.0.1", TAKEN)
        self.address = f"http://127.0.0.1:{self.port}"
        small = f"--dtype float32 --kv-cache-memory-bytes {KV_CACHE_BYTES} --max-num-batched-tokens 2048 --enforce-eager".split()
        where = ["--model", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        super().__init__(log, python, "-m", "vllm.entrypoints.openai.api_server", *where, *small, *arguments)

    def answers(self) -> bool:
        """Whether it says that it is well."""
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def again(self) -> VllmProcess:
        """The same server started once more, on the same port."""
        return VllmProcess(self.python, self.log, self.model, *self.arguments, port=self.port)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    return environment("vllm")


@pytest.fixture(scope="session")
def reward_dir(make_model: Callable[..., Path]) -> Path:
    """Three outputs: vLLM would apply a softmax to them by default. Its CPU attention wants heads of 32 or more."""
    return make_model("classification", hidden_size=128, num_labels=3)


@pytest.fixture(scope="session")
def next_reward_dir(make_model: Callable[..., Path]) -> Path:
    """Another version of the reward model."""
    return make_model("classification", hidden_size=128, num_labels=3, seed=5)


@pytest.fixture(scope="session")
def causal_dir(make_model: Callable[..., Path], tokenizer: Any) -> Path:
    """A model that mostly says A or B after a generation prompt, as a judge must."""
    a, b, turn = (tokenizer.convert_tokens_to_ids(token) for token in ("A", "B", "<|assistant|>"))

    def prefer_labels(model: Any) -> None:
        embedding = model.get_input_embeddings().weight
        embedding[turn] *= 30
        direction = embedding[turn] / embedding[turn].norm()
        head = model.get_output_embeddings().weight
        noise = torch.randn(2, head.shape[1], generator=torch.Generator().manual_seed(0)) * 0.1
        head[[a, b]] = 2.5 * direction + noise

    return make_model("causal", hidden_size=128, max_position_embeddings=1024, edit=prefer_labels)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("templates")
    (directory / "short.yaml").write_text(asking.TEMPLATE)
    return directory


@pytest.fixture(scope="session")
def vllm_servers(
    vllm_python: Path, reward_dir: Path, causal_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, VllmProcess]]:
    """A pooling server and a generating one, started side by side."""
    logs = tmp_path_factory.mktemp("vllm-servers")
    # Beside a qwen2 config, AutoTokenizer would put that architecture's own class in the place of the tokenizer that was saved.
    apart = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(apart)
    generating = ["--logprobs-mode", "processed_logprobs", "--tokenizer", str(apart)]
    # vLLM's default backend lets bare control characters into JSON strings, and any number of blanks between them.
    generating += ["--structured-outputs-config", json.dumps({"backend": "guidance", "disable_any_whitespace": True})]
    servers = {
        "classification": VllmProcess(vllm_python, logs / "pooling.log", reward_dir, "--runner", "pooling", "--convert", "classify"),
        "causal": VllmProcess(vllm_python, logs / "causal.log", causal_dir, *generating),
    }
    try:
        for server in servers.values():
            server.wait_until(server.answers)
        yield servers
    finally:
        for server in servers.values():
            server.stop()
