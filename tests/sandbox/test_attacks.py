"""Every attack of the corpus against a real server with each sandbox: no escape, no false PASS, and the server is well afterwards."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from benchmarks.verifiers.attacked import try_attack
from benchmarks.verifiers.attacks import Attack, Host, attacks, host

from rewardmesh.client import AsyncClient
from rewardmesh.verifier import Config, create_server
from sandbox_support import RUNTIMES, require

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

CORPUS = attacks()


@dataclass(frozen=True)
class Target:
    """A server under attack."""

    client: AsyncClient
    host: Host
    runtime: str


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=RUNTIMES)
async def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A server with one kind of sandbox."""
    require(request.param)
    server = await create_server(Config(port=0, metrics_port=0, workers=1, sandbox=request.param, sandbox_slots=2, drain_seconds=1))
    await server.start()
    with host(tmp_path_factory.mktemp("host"), os.getpid()) as about:
        async with AsyncClient(server.address, timeout_s=None) as client:
            yield Target(client, about, request.param)
    await server.stop()


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len({attack.name for attack in CORPUS}) == len(CORPUS) >= 60


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: f"{attack.family}-{attack.name}")
async def test_it_fails_and_the_server_is_well(target: Target, attack: Attack) -> None:
    if attack.own_kernel and target.runtime == "gvisor":
        pytest.skip(attack.own_kernel)
    trial = await try_attack(target.client, attack, target.host)
    if trial["skipped"]:
        pytest.skip(str(trial["skipped"]))
    assert trial["passed"] == 0, "it escaped or forged a PASS"
    # Whatever a program does, its policy answers for it: an attack must not buy an absence in place of a penalty.
    assert trial["absent"] == 0, "it got no verdict"
    assert trial["honest_lost"] == 0, "an honest program beside it or after it did not pass"
    assert trial["left"] == 0, trial["traces"]
