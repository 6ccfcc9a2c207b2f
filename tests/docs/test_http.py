"""The examples of docs/http.md, against the servers that the page starts: requests as written, answers as shown."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from doc_blocks import ROOT, blocks
from rewardmesh import gateway, reward, verifier
from rewardmesh.adapters.http_shims import ShimConfig, shim_app
from rewardmesh.adapters.http_shims.scoring import Scorer
from rewardmesh.serving import Server
from rewardmesh.serving.http import HttpListener

PAGE = (ROOT / "docs" / "http.md",)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Any]:
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def addresses(tmp_path: Path, reward_model: Path) -> AsyncIterator[dict[str, str]]:
    """Addresses of the page -> addresses of the servers that stand for them here."""
    program = next(block.text for block in blocks("yaml", PAGE) if block.text.startswith("# math.yaml"))
    (tmp_path / "math.yaml").write_text(program)
    async with AsyncExitStack() as stack:
        checks: dict[str, Any] = {"workers": 1, "drain_seconds": 2.0}
        checker = await stack.enter_async_context(running(await verifier.create_server(verifier.VerifierConfig(**checks))))
        scores: dict[str, Any] = {"model": str(reward_model), "name": "helpful-rm", "drain_seconds": 2.0}
        scorer = await stack.enter_async_context(running(await reward.create_server(reward.RewardConfig(**scores))))
        front: dict[str, Any] = {"programs": [tmp_path], "backends": {"verifier": checker.address}, "http_port": 0, "drain_seconds": 2.0}
        mesh = await stack.enter_async_context(running(await gateway.create_server(gateway.GatewayConfig(**front))))
        config = ShimConfig(target=scorer.address, port=0)
        behind = Scorer(config)
        stack.push_async_callback(behind.close)
        shim = HttpListener(shim_app(config, behind), host="127.0.0.1", port=0, drain_seconds=2.0)
        await shim.start()
        stack.push_async_callback(shim.stopped)
        yield {"127.0.0.1:8080": mesh.http_address, "127.0.0.1:50061": scorer.address, "127.0.0.1:8000": shim.address}


def curl(command: str) -> Any:
    """What the curl command of the page gets."""
    _, url, *rest = shlex.split(command)
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    name, _, value = options["-H"].partition(": ")
    request = urllib.request.Request(url, options["-d"].encode(), {name: value})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def holds(whole: Any, part: Any) -> bool:
    """Whether all of `part` is in `whole`, at the same places."""
    if isinstance(part, Mapping):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(holds(mine, theirs) for mine, theirs in zip(whole, part, strict=True))
    return bool(whole == part)


def here(text: str, addresses: Mapping[str, str]) -> str:
    for page, local in addresses.items():
        text = text.replace(page, local)
    return text


async def test_requests_get_the_answers_that_the_page_shows(addresses: dict[str, str]) -> None:
    shell = here("".join(block.text for block in blocks("bash", PAGE)), addresses)
    commands = [command for command in re.split(r"^(?=curl |rewardmesh )", shell, flags=re.MULTILINE) if command.startswith("curl ")]
    assert len(commands) == 3
    answers = [json.loads(block.text) for block in blocks("json", PAGE)]
    got = [await asyncio.to_thread(curl, command) for command in commands]
    for answer, wanted in zip(got[:2], answers, strict=True):
        assert holds(answer, wanted), answer
    assert len(got[2]["rewards"]) == 1


async def test_the_client_of_triton_runs(addresses: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    [block] = blocks("py", PAGE)
    await asyncio.to_thread(exec, compile(here(block.text, addresses), str(block), "exec"), {})
    printed = [line for line in capsys.readouterr().out.splitlines() if re.match(r"-?\d+\.|\{", line)]
    first, second, third = printed[-3:]
    assert float(first) != float(second)
    assert json.loads(third)["reason"] == "INVALID_INPUT"
