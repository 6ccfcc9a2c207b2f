"""The gateway as a server: programs it describes, best of n, configurations it refuses, health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from rewardmesh.client import AsyncClient, sample
from rewardmesh.gateway import Config, GatewayConfig, create_server
from rewardmesh.serving import ConfigError
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

ONE = """\
# the first
name: one
signals:
  correct: {verifier: math, timeout: 1.5}
  helpful: {reward: rm}
reward: {sum: [{of: helpful, shape: {sigmoid: {centre: group}}}, correct]}
on_absence: {correct: abort, helpful: fallback(-1)}
"""
TWO = "name: two\nsignals: {correct: {verifier: math}}\nreward: correct\n"


async def test_programs_are_listed_and_described(gateway: Any, everywhere: Any) -> None:
    stub = await gateway([TWO, ONE], everywhere)
    assert list((await stub.ListPrograms(mesh.ListProgramsRequest())).programs) == ["one", "two"]
    got = await stub.DescribeProgram(mesh.DescribeProgramRequest(program="one"))
    assert (got.program, got.yaml) == ("one", ONE)
    assert got.scale == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=0, max=2)
    correct, helpful = got.signals
    assert (correct.name, correct.kind, correct.target, correct.on_absence) == ("correct", "verifier", "math", mesh.ABSENCE_POLICY_ABORT)
    assert correct.timeout.ToMilliseconds() == 1500
    assert correct.scale.kind == pb.SCALE_KIND_UNIT
    assert not correct.HasField("fallback")
    assert (helpful.fallback, helpful.on_absence, helpful.scale.kind) == (-1.0, mesh.ABSENCE_POLICY_FALLBACK, pb.SCALE_KIND_LOGIT)
    assert not helpful.HasField("timeout")
    with pytest.raises(grpc.aio.AioRpcError, match="must name one of one, two") as caught:
        await stub.Evaluate(mesh.EvaluateRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError, match="known: one, two"):
        await stub.DescribeProgram(mesh.DescribeProgramRequest(program="three"))


async def test_select_best(gateway: Any, everywhere: Any) -> None:
    stub = await gateway(TWO, everywhere)

    def ask(*texts: str) -> mesh.SelectBestRequest:
        return mesh.SelectBestRequest(samples=[sample(f"s{i}", "?", text) for i, text in enumerate(texts)])

    reply = await stub.SelectBest(ask("math=!", "math=0.25", "math=0.75", "math=0.75"), timeout=10)
    assert reply.best_sample_id == "s2"
    assert [each.outcome.WhichOneof("result") for each in reply.evaluations] == ["absence", "reward", "reward", "reward"]
    assert (await stub.SelectBest(ask("math=!"), timeout=10)).best_sample_id == ""
    with pytest.raises(grpc.aio.AioRpcError, match="at least one sample"):
        await stub.SelectBest(mesh.SelectBestRequest(), timeout=10)
    apart = [sample("a", "?", "math=1", group_id="g"), sample("b", "?", "math=1", group_id="h")]
    with pytest.raises(grpc.aio.AioRpcError, match="must all be of one group, are of 'g', 'h'"):
        await stub.SelectBest(mesh.SelectBestRequest(samples=apart), timeout=10)


async def test_samples_without_a_group_id_are_one_group_for_select_best(gateway: Any, everywhere: Any) -> None:
    stub = await gateway("name: p\nsignals: {wins: {judge: t, mode: compare, against: group}}\nreward: wins\n", everywhere)
    samples = [sample("a", "?", "t=1"), sample("b", "?", "t=2")]
    assert (await stub.SelectBest(mesh.SelectBestRequest(samples=samples), timeout=10)).best_sample_id == "b"


async def test_the_client_reads_a_gateway_and_it_is_well_without_backends(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(TWO)
    server = await create_server(Config(programs=[tmp_path / "two.yaml"], backends={"verifier": "127.0.0.1:1"}))
    await server.start()
    try:
        async with AsyncClient(server.address) as client:
            assert await client.health() == "SERVING"
            assert await client.list_programs() == ["two"]
            [evaluation] = (await client.evaluate([sample("a", "?", "math=1")], timeout_s=5)).evaluations
            assert evaluation.value is None
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        ({}, {}, "holds no *.yaml"),
        ({"a.yaml": TWO, "b.yaml": TWO}, {}, "b.yaml: name: 'two' is already the name of"),
        ({"a.yaml": TWO}, {"backends": {"reward": "x:1"}}, "no backend 'verifier/math' or 'verifier' (configured: reward)"),
        (
            {"a.yaml": TWO.replace("verifier: math", "verifier: math, service: mine")},
            {},
            "program 'two', signal 'correct': no backend 'mine' (configured: verifier)",
        ),
        ({"a.yaml": TWO}, {"baselines": {"two/nosuch": 1.0}}, "baselines.two/nosuch: there is no such program/signal (known: two/correct)"),
        ({"a.yaml": TWO.replace("reward: correct", "reward: korrect")}, {}, "a.yaml:3: reward: unknown signal 'korrect'"),
        ({"a.yaml": b"name: \xff"}, {}, "a.yaml: is not UTF-8 (byte 6)"),
    ],
)
async def test_configurations_that_cannot_work_are_refused(
    tmp_path: Path, files: dict[str, str | bytes], fields: dict[str, Any], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        await create_server(Config(**({"programs": [tmp_path], "backends": {"verifier": "127.0.0.1:1"}} | fields)))
    assert message in str(caught.value)


async def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nosuch\.yaml: cannot be read: No such file"):
        await create_server(Config(programs=[tmp_path / "nosuch.yaml"]))


def test_configuration_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDMESH_GATEWAY_PROGRAMS", '["programs"]')
    monkeypatch.setenv("REWARDMESH_GATEWAY_BACKENDS", '{"reward": "scorer:50051"}')
    monkeypatch.setenv("REWARDMESH_GATEWAY_BACKENDS__JUDGE", "judge:50051")
    config = GatewayConfig.load()
    assert config.programs == [Path("programs")]
    assert config.backends["reward"] == "scorer:50051"
