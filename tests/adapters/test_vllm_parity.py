"""The shim beside vLLM itself, on one model: the same requests get the same fields and the same numbers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from rewardmesh import reward
from rewardmesh.adapters.http_shims import ShimConfig, shim_app
from rewardmesh.adapters.http_shims.scoring import Scorer
from rewardmesh.serving.http import HttpListener

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
TEXTS = ["12 + 7 = 19", "The answer is 21.", "The quick brown fox jumps over the lazy dog 0123456789."]

pytestmark = [
    pytest.mark.engines,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]


@pytest.fixture
async def vllm(vllm_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    """vLLM's own server of the model."""
    if not PYTHON.exists():
        missing = f"{PYTHON} is not there: run `make engines-env`"
        (pytest.fail if os.environ.get("REWARDMESH_REQUIRE_ENGINES") else pytest.skip)(missing)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--runner", "pooling", "--convert", "classify", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(
            str(PYTHON),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(vllm_model),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--served-model-name",
            "tiny",
            *flags,
        ),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client, asyncio.timeout(300):
            while not await _healthy(client):
                assert process.returncode is None, "vLLM ended"
                await asyncio.sleep(0.5)
            yield client
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


async def _healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def vllm_model(make_model: Any, request: pytest.FixtureRequest) -> Path:
    """A model with one output, or as many as the test is parametrised with; its heads are of a size that vLLM's CPU attention takes."""
    path: Path = make_model("classification", num_labels=request.param, hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    return path


@pytest.fixture
async def shim(vllm_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    fields: dict[str, Any] = {"model": str(vllm_model), "name": "tiny", "drain_seconds": 2.0}
    async with AsyncExitStack() as stack:
        server = await reward.create_server(reward.RewardConfig(**fields))
        await server.start()
        stack.push_async_callback(server.stop)
        config = ShimConfig(target=server.address, port=0)
        scorer = Scorer(config)
        stack.push_async_callback(scorer.close)
        listener = HttpListener(shim_app(config, scorer), host="127.0.0.1", port=0, drain_seconds=2.0)
        await listener.start()
        stack.push_async_callback(listener.stopped)
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{listener.address}", timeout=60))


@pytest.mark.parametrize("vllm_model", [1, 3], indirect=True)
async def test_classify_gives_the_same(vllm: httpx.AsyncClient, shim: httpx.AsyncClient) -> None:
    # Token ids: for a text of this made-up model vLLM takes the tokenizer class of its architecture, with other rules than its file's.
    bodies: list[dict[str, Any]] = [
        {"input": [[5, 6, 7, 20, 30, 40], [8, 9], [11] * 50]},
        {"input": [[5, 6, 7], [8, 9]], "use_activation": False},
        {"input": [10, 11, 12]},
    ]
    for body in bodies:
        theirs, ours = (await vllm.post("/classify", json=body)).json(), (await shim.post("/classify", json=body)).json()
        assert set(ours) == set(theirs)
        assert (ours["object"], ours["model"], len(ours["data"])) == (theirs["object"], theirs["model"], len(theirs["data"]))
        assert ours["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
        for mine, other in zip(ours["data"], theirs["data"], strict=True):
            assert set(mine) == set(other)
            assert (mine["index"], mine["num_classes"]) == (other["index"], other["num_classes"])
            np.testing.assert_allclose(mine["probs"], other["probs"], atol=1e-3)
            if mine["num_classes"] > 1:
                assert mine["label"] == other["label"]
    body = {"input": TEXTS, "add_special_tokens": False}
    theirs, ours = (await vllm.post("/classify", json=body)).json(), (await shim.post("/classify", json=body)).json()
    assert [set(each) for each in ours["data"]] == [set(each) for each in theirs["data"]]
    if ours["data"][0]["num_classes"] == 1:
        body = {"text_1": "Which?", "text_2": TEXTS}
        theirs, ours = (await vllm.post("/score", json=body)).json(), (await shim.post("/score", json=body)).json()
        assert set(ours) == set(theirs)
        assert [set(each) for each in ours["data"]] == [set(each) for each in theirs["data"]]
