"""`engine: triton` against a real tritonserver: scores are those of transformers, what fails is absent, what does not fit is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.client import AsyncClient, Score, sample
from rewardmesh.engine.loading import LoadError
from rewardmesh.reward import RewardConfig, create_server
from rewardmesh.v1 import common_pb2 as pb
from triton_server import TritonServer, require, triton

pytestmark = pytest.mark.engines

WORDS = "Ann has 12 apples and buys 7 more; the quick brown fox jumps over the lazy dog"
SAMPLES = [sample(f"s{n}", f"How many? {WORDS[: 3 * n]}", WORDS[n : 4 * n] or "19") for n in range(20)]
MASK = {"token_ids": "ids", "mask": "mask"}
LENGTHS = {"token_ids": "ids", "mask": "", "lengths": "lengths"}
LOGITS = {"model_name": "reward", "output_is": "logit"}


@pytest.fixture(scope="module")
def server(reward_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    require()
    with triton(reward_model, tmp_path_factory.mktemp("triton")) as running:
        yield running


@pytest.fixture
def serve(reward_model: Path) -> Callable[..., Any]:
    """serve(address, engine_options, **config): a reward server that computes there, or itself without an address."""

    @asynccontextmanager
    async def start(address: str = "", options: dict[str, Any] | None = None, **changes: Any) -> AsyncIterator[AsyncClient]:
        settings: dict[str, Any] = {"model": str(reward_model), "drain_seconds": 1.0, "budget_tokens": 16384, "cache_bytes": 0, **changes}
        if address:
            settings |= {"engine": "triton", "engine_address": address, "engine_options": options or {}}
        running = await create_server(RewardConfig(**settings))
        await running.start()
        try:
            async with AsyncClient(running.address) as client:
                yield client
        finally:
            await running.stop()

    return start


async def refused(serve: Callable[..., Any], server: TritonServer, options: dict[str, Any], **config: Any) -> str:
    with pytest.raises(LoadError) as error:
        async with serve(server.address, options, **config):
            pass
    return str(error.value)


def values(outcomes: list[Score]) -> list[float | None]:
    return [outcome.value for outcome in outcomes]


@pytest.mark.parametrize(
    "options",
    [
        LOGITS | MASK,
        LOGITS | LENGTHS | {"items_per_request": 3, "max_in_flight": 2},
        LOGITS | MASK | {"lengths": "lengths"},
        LOGITS | {"text": "text"},
        LOGITS | MASK | {"output": "both", "columns": [1]},
        LOGITS | MASK | {"output": "probability", "output_is": "probability", "convert": "logit"},
    ],
    ids=["mask", "lengths", "both", "text", "column", "probability"],
)
async def test_scores_are_those_of_transformers(serve: Callable[..., Any], server: TritonServer, options: dict[str, Any]) -> None:
    async with serve() as own, serve(server.address, options) as client:
        expected = await own.score(SAMPLES)
        found, again = await asyncio.gather(client.score(SAMPLES), client.score(SAMPLES[::-1]))
        model = await client.get_model()
    assert values(found) == pytest.approx(values(expected), abs=1e-3)
    assert values(again)[::-1] == pytest.approx(values(expected), abs=1e-3)
    assert len({round(value, 2) for value in values(expected) if value is not None}) > 5
    assert model.capabilities.forward_mode_reason == "computed by triton"


async def test_probabilities_where_the_service_declares_them(serve: Callable[..., Any], server: TritonServer) -> None:
    options = LOGITS | MASK | {"output": "probability", "output_is": "probability"}
    async with serve(server.address, options, scale="probability") as client:
        outcomes = await client.score(SAMPLES[:4])
    assert all(value is not None and 0 < value < 1 for value in values(outcomes))
    assert outcomes[0].message.reward.scale.kind == pb.SCALE_KIND_PROBABILITY


async def test_a_scale_that_is_not_the_servers_is_refused(serve: Callable[..., Any], server: TritonServer) -> None:
    probability = LOGITS | MASK | {"output": "probability", "output_is": "probability"}
    message = await refused(serve, server, probability)
    assert message == (
        "engine_options.output_is: the server gives a probability, the service's scale is logit; set convert: logit, or scale: probability"
    )
    assert "the server gives a logit" in await refused(serve, server, LOGITS | MASK, scale="unit")
    unstated = await refused(serve, server, {"model_name": "reward"} | MASK)
    assert unstated == "engine_options: output_is: Field required"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": "input_ids"}, "model 'reward' has no input tensor 'input_ids'; it has ids, mask, lengths, text"),
        ({"mask": "attention_mask"}, "model 'reward' has no input tensor 'attention_mask'"),
        ({"token_ids": "text"}, "input tensor 'text' of model 'reward' is BYTES, must be INT64 or INT32"),
        ({"mask": "ids"}, "token_ids, mask and lengths name a tensor twice: ids, ids"),
        (
            {"token_ids": "mask", "mask": "", "lengths": "ids"},
            "input tensor 'ids' of model 'reward' has shape [-1, -1], must be [n] or [n, 1]",
        ),
        ({"output": "rewards"}, "model 'reward' has no output tensor 'rewards'; it has logits, probability, both, label"),
        ({"output": "label"}, "output tensor 'label' of model 'reward' is INT32, must be FP16, FP32 or FP64"),
        ({"output": "both"}, "columns: 2 of output tensor 'both', the head in the model directory has 1 outputs"),
        ({"columns": [4]}, "columns: output tensor 'logits' of model 'reward' has 1 columns, not [4]"),
        ({"items_per_request": 9}, "items_per_request: 9 is more than model 'reward' takes at once, 8"),
        ({"model_name": "other"}, "model 'other' is not ready on the server"),
        ({"model_version": "3"}, "model 'reward' version 3 is not ready on the server"),
        ({"mask": ""}, "mask and lengths are both empty"),
        ({"convert": "logit"}, "logits need no conversion"),
        ({"tokens": "ids"}, "engine_options: tokens: unknown field"),
    ],
)
async def test_a_mapping_that_does_not_fit(serve: Callable[..., Any], server: TritonServer, changes: dict[str, Any], message: str) -> None:
    assert message in await refused(serve, server, LOGITS | MASK | changes)


async def test_one_bad_item_does_not_harm_the_others(serve: Callable[..., Any], server: TritonServer, tokenizer: Any) -> None:
    poison = tokenizer.decode([7])
    samples = [*SAMPLES[:5], sample("bad", "How many?", f"19{poison}19"), *SAMPLES[5:9]]
    async with serve(server.address, LOGITS | MASK) as client:
        outcomes = await client.score(samples)
    assert [outcome.sample_id for outcome in outcomes if outcome.value is None] == ["bad"]
    lost = outcomes[5].message.absence
    assert lost.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
    assert not lost.retryable
    assert "poisoned" in lost.detail


async def test_a_later_version_must_be_another_one_of_the_server(
    serve: Callable[..., Any], server: TritonServer, reward_model: Path
) -> None:
    async with serve(server.address, LOGITS | MASK) as client:
        with pytest.raises(Exception, match='set it to "same"'):
            await client.load_version(2, str(reward_model))
    async with serve(server.address, LOGITS | MASK | {"model_version": "same"}) as client:
        assert None not in values(await client.score(SAMPLES))
        with pytest.raises(Exception, match="version 2 is not ready"):
            await client.load_version(2, str(reward_model))


async def test_a_server_that_is_not_there(serve: Callable[..., Any]) -> None:
    with pytest.raises(LoadError, match=r"engine_address: the server does not answer about model 'reward': StatusCode\.UNAVAILABLE"):
        async with serve("127.0.0.1:1", LOGITS | MASK):
            pass


async def test_a_killed_server_leaves_absences(serve: Callable[..., Any], server: TritonServer) -> None:
    """The last test of the module: the server is gone after it."""
    async with serve(server.address, LOGITS | MASK | {"timeout_s": 5.0}) as client:
        assert None not in values(await client.score(SAMPLES))
        server.kill()
        outcomes = await client.score(SAMPLES)
    assert values(outcomes) == [None] * len(SAMPLES)
    for outcome in outcomes:
        assert outcome.message.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
        assert outcome.message.absence.retryable
        assert "UNAVAILABLE" in outcome.message.absence.detail
