"""A panel among real services: judges with weights below it, a gateway's program above it, and the command that starts it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from panel.conftest import Panels, Toys, duel, text_of
from rewardmesh import gateway
from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.client import AbsenceReason, AsyncClient, pair, rank_group, sample
from rewardmesh.serving import ConfigError

PROGRAM = """
name: judged
signals:
  wins: {judge: jury, mode: compare, against: group}
  grade: {judge: jury, mode: grade}
reward: {sum: [{of: wins, weight: 0.5}, {of: grade, weight: 0.5}]}
"""
QUESTION = "How many apples does Ann have?"


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
async def judges(make_model: Callable[..., Path]) -> AsyncIterator[dict[str, str]]:
    """Addresses of two judges with random weights of their own."""
    from rewardmesh import judge  # heavy: torch

    async with AsyncExitStack() as stack:
        addresses = {}
        for seed, name in enumerate(("small", "large")):
            model = make_model("causal", seed=seed + 3, max_position_embeddings=1024)
            config = judge.JudgeConfig(model=str(model), name=name, min_label_mass=0.0, drain_seconds=1.0, threads=1)
            server = await judge.create_server(config)
            await server.start()
            stack.push_async_callback(server.stop)
            addresses[name] = server.address
        yield addresses


async def test_judges_with_weights(judges: dict[str, str], panels: Panels) -> None:
    panel = await panels(judges, name="jury", default={"rule": "jury"})
    pairs = [pair(f"p{i}", QUESTION, f"Ann has {i} apples.", f"The answer is {19 - i}") for i in range(3)]
    apart = []
    for address in judges.values():
        async with AsyncClient(address) as client:
            apart.append([each.value or 0.0 for each in await client.compare(pairs)])
    together = await panel.compare(pairs)
    assert [each.value for each in together] == pytest.approx([(one + other) / 2 for one, other in zip(*apart, strict=True)], abs=1e-6)
    assert all(each.message.provenance.cached for each in together)
    (ranked,) = await panel.rank([rank_group("g", QUESTION, ["Ann has 19 apples.", "19", "The answer is 12"])])
    assert sorted(ranked.order or ()) == [0, 1, 2]
    (graded,) = await panel.grade([sample("s", QUESTION, "Ann has 19 apples.")], rubric="grade-yes-no")
    assert graded.value is not None or graded.absence is not None
    (empty,) = await panel.compare([pair("empty", QUESTION, "", "19")])
    assert empty.absence is not None
    assert empty.absence.reason == AbsenceReason.ABSTAINED
    assert "small: INVALID_INPUT: a: is empty" in empty.absence.detail


async def test_a_program_asks_a_panel_as_it_asks_a_judge(toys: Toys, panels: Panels, tmp_path: Path) -> None:
    members = {name: (await toys(name)).address for name in ("x", "y", "z")}
    panel = await panels(members, name="jury", default={"rule": "jury", "quorum": 2})
    (tmp_path / "program.yaml").write_text(PROGRAM)
    config = gateway.GatewayConfig(programs=[tmp_path / "program.yaml"], backends={"judge": panel.target}, drain_seconds=0.5)
    server = await gateway.create_server(config)
    await server.start()
    try:
        async with AsyncClient(server.address) as client:
            texts = [text_of(x=0.9, y=0.7, z="?"), text_of(x=0.1, y=0.3, z=0.2), text_of(x=0.4, y="?", z="?")]
            found = await client.evaluate([sample(f"s{i}", QUESTION, text, group_id="g") for i, text in enumerate(texts)])
    finally:
        await server.stop()
    best, worst, lost = found.evaluations
    assert best.value == pytest.approx((0.8 + 0.8) / 2, abs=1e-6)  # 0.8 against the only one a quorum could compare it with
    assert worst.value == pytest.approx((0.2 + 0.2) / 2, abs=1e-6)
    assert lost.absence is not None
    assert "1 of 3 members gave a verdict" in lost.components["grade"].absence.detail  # type: ignore[union-attr]
    (row,) = best.components["wins"].message.preferences.outcomes[:1]
    assert row.preference.votes == 2
    assert row.provenance.model.name == "jury"
    assert best.components["grade"].message.grades.provenance.model.fingerprint


async def test_a_panel_that_is_its_own_member_is_not_asked_again(toys: Toys, panels: Panels, free_port: int) -> None:
    toy = await toys("x")
    own, inner = f"127.0.0.1:{free_port}", {"rule": "jury", "quorum": 1}
    between = await panels({"outer": own}, name="between", default=inner)
    members = {"x": toy.address, "me": own, "again": own, "between": between.target}
    outer = await panels(members, name="outer", default=inner, config={"port": free_port})
    (found,) = await outer.compare([duel("p", x=0.75)], timeout_s=20)
    assert found.value == 0.75
    assert found.message.preference.votes == 1, "its own vote is none"
    assert len(toy.requests) == 1
    alone = await panels({"me": own, "x": toy.address}, name="alone", default={"rule": "jury", "quorum": 2})
    (nested,) = await alone.compare([duel("q", x=0.75)])
    assert nested.value == 0.75, "a panel may be a member of another, which has its judges too"
    strict = await panels({"between": between.target}, name="strict", default=inner)
    (through,) = await strict.compare([duel("r", x=0.25)])
    assert through.value == 0.25


def test_a_mesh_file_gives_a_panel_its_members_addresses(tmp_path: Path) -> None:
    file = {
        "services": {
            "small": {"kind": "panel", "panel": "small.yaml"},
            "jury": {"kind": "panel", "panel": "panel.yaml", "addresses": {"small": "${services.small.address}"}},
        }
    }
    resolved = MeshFile.parse(file).resolve({"small": {"address": "127.0.0.1:7", "metrics_address": "127.0.0.1:8"}, "jury": {}})
    assert resolved["jury"]["addresses"] == {"small": "127.0.0.1:7"}
    with pytest.raises(ConfigError, match=r"services.jury.panel: Field required"):
        MeshFile.parse({"services": {"jury": {"kind": "panel"}}})


async def test_the_command_serves_a_panel(toys: Toys, tmp_path: Path) -> None:
    toy = await toys("x")
    (tmp_path / "panel.yaml").write_text("name: jury\nmembers: {x: {}}\ndefault: {rule: jury}\n")
    command = [sys.executable, "-m", "rewardmesh.cli", "serve", "panel", "--log-format", "json", "--drain-seconds", "1"]
    command += ["--panel", str(tmp_path / "panel.yaml"), "--addresses", f"x={toy.address}"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with AsyncClient(await _address(process)) as client:
            assert (await client.compare([duel("p", x=0.75)]))[0].value == 0.75
    finally:
        process.terminate()
        _, log = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0, log.decode()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "serving":
                return str(event["address"])
    raise AssertionError("it ended before it served")
