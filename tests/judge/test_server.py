"""The judge as a server: broken weights, deadlines, cancellation, versions, and replays equal to the bit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from judge.conftest import Serve
from rewardmesh.client import AbsenceReason, CallFailed, pair, sample
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc

PAIR = pair("p", "How many apples?", "19", "20")


def many(count: int, length: int = 200) -> list[api.Pair]:
    return [pair(f"p{i}", f"Question {i}: " + "apples " * length, f"{i}", f"{i + 1}") for i in range(count)]


def poison(model: Any) -> None:
    model.lm_head.weight[:] = torch.nan


async def test_nan_weights_are_non_finite_and_the_server_lives(serve: Serve, make_model: Callable[..., Path]) -> None:
    model = make_model("causal", tie_word_embeddings=False, edit=poison)
    async with serve(model=str(model)) as client:
        for _ in range(2):
            (result,) = await client.compare([PAIR])
            assert result.absence is not None
            assert result.absence.reason == AbsenceReason.NON_FINITE
        (graded,) = await client.grade([sample("s", "q", "x")], rubric="whole")
        assert graded.absence is not None
        assert graded.absence.reason == AbsenceReason.NON_FINITE
        assert await client.health("rewardmesh.v1.JudgeService") == "SERVING"


async def test_an_expired_deadline_and_a_cancelled_call_leave_the_server_well(serve: Serve) -> None:
    async with serve() as client:
        results = await client.compare(many(64), timeout_s=0.01)
        assert {result.absence.reason for result in results if result.absence} <= {AbsenceReason.DEADLINE, AbsenceReason.OVERLOADED}
        assert all(result.absence for result in results)
        call = client.judge.Compare(api.CompareRequest(pairs=many(64)))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (after,) = await client.compare([PAIR])
        assert after.value is not None


async def test_writing_ends_with_the_deadline_and_readings_do_not_wait_for_it(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(
        "name: long\nlabels: {a: A, b: B}\nhops: [{name: why, text: '{{ prompt }}', max_tokens: 3000, temperature: 1}]\n"
        "text: '{{ why }} {{ a }} {{ b }}'"
    )
    async with serve(templates=[str(tmp_path)], default_template="", default_rubric="", engine_options={}) as client:
        began = time.monotonic()
        writing = asyncio.create_task(client.compare([PAIR], template="long", votes=8, timeout_s=1.5))
        await asyncio.sleep(0.3)
        [read] = await client.compare([PAIR], template="compare")
        assert read.value is not None
        assert not writing.done(), "a verdict that is read does not wait for one that is written"
        [lost] = await writing
        assert lost.absence is not None
        assert lost.absence.reason == AbsenceReason.DEADLINE
        # The thread is free again: another text is written at once.
        [next_one] = await client.compare([PAIR], template="compare-written")
        assert next_one.absence is None or next_one.absence.reason == AbsenceReason.UNPARSABLE
        assert time.monotonic() - began < 20


async def test_a_full_queue_refuses(serve: Serve) -> None:
    # An empty queue takes anything; beside it there is no room. A bare channel, for the client would come again.
    async with serve(max_queue_tokens=1, budget_tokens=1) as client, grpc.aio.insecure_channel(client.target) as channel:
        stub = rpc.JudgeServiceStub(channel)
        calls = [stub.Compare(api.CompareRequest(pairs=many(8, 200 + number))) for number in range(4)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
    refused = [reply for reply in replies if isinstance(reply, grpc.aio.AioRpcError)]
    assert all(reply.code() == grpc.StatusCode.RESOURCE_EXHAUSTED for reply in refused)
    assert 0 < len(refused) < len(replies)


async def test_batch_invariant_verdicts_do_not_depend_on_company(serve: Serve) -> None:
    groups = [[pair(f"{i}", f"Question {q}: how many apples?", f"{i}", f"{i * 7}") for i in range(3)] for q in range(6)]
    async with serve(batch_invariant=True, cache_bytes=0) as client:
        alone = [[result.value for result in await client.compare(group)] for group in groups]
        together = await asyncio.gather(*(client.compare(group) for group in groups for _ in range(2)))
        mixed = await client.compare([pair(f"{q}-{p.id}", p.prompt, p.a, p.b) for q, group in enumerate(groups) for p in group])
        assert (await client.get_model()).capabilities.batch_invariant
    for index, results in enumerate(together):
        assert [result.value for result in results] == alone[index // 2]
    assert [result.value for result in mixed] == [value for values in alone for value in values]


async def test_templates_of_concurrent_calls_may_share_a_batch(serve: Serve) -> None:
    async with serve(cache_bytes=0) as client:
        names = ["short", "with-tie"] * 4
        alone = {name: (await client.compare([PAIR], template=name))[0].value for name in set(names)}
        results = await asyncio.gather(*(client.compare([PAIR], template=name) for name in names))
    for name, (result,) in zip(names, results, strict=True):
        assert result.value == pytest.approx(alone[name], abs=1e-5)


async def test_versions_are_swapped_by_the_model_service(serve: Serve, make_model: Callable[..., Path]) -> None:
    other = make_model("causal", max_position_embeddings=4096, seed=7)
    async with serve() as client:
        assert (await client.get_model("tiny")).capabilities.outputs == ["preference", "grades", "critique"]
        (before,) = await client.compare([PAIR])
        await client.load_version(2, str(other))
        await client.activate_version(2, expected_current=1)
        (after,) = await client.compare([PAIR])
        assert after.message.provenance.model.version == 2
        assert after.value != before.value
        assert after.message.provenance.model.fingerprint != before.message.provenance.model.fingerprint
        (pinned,) = await client.compare([PAIR], model=pb.ModelRef(version=1))
        assert pinned.value == pytest.approx(before.value, abs=1e-6)
        await client.unload_version(1)
        with pytest.raises(CallFailed, match="NOT_FOUND"):
            await client.compare([PAIR], model=pb.ModelRef(name="tiny", version=1))


async def test_a_version_that_cannot_say_the_labels_is_not_loaded(serve: Serve, make_model: Callable[..., Path]) -> None:
    from rewardmesh.demo.tokenizer import build_word_tokenizer

    model = make_model("causal")
    build_word_tokenizer(["first second"]).save_pretrained(model)
    async with serve() as client:
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*label 'A' has no tokens"):
            await client.load_version(2, str(model))
        (result,) = await client.compare([PAIR])
        assert result.message.provenance.model.version == 1
