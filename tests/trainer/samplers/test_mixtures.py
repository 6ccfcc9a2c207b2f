"""Mixtures of two policies: the product formula, and completions through a real log-prob service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rewardmesh.client import AsyncClient
from rewardmesh.logprob import LogProbConfig, create_server
from rewardmesh.trainer.mixtures import draw_token, sample_mixture
from rewardmesh.v1.common_pb2 import ModelRef

PROMPT = list(range(30, 42))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, -0.3, 1.3])
def test_tokens_follow_the_product_formula(weight: float) -> None:
    policy, reference, temperature = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4]), 0.8
    product = (policy ** (1 - weight) * reference**weight) ** (1 / temperature)
    product /= product.sum()
    logits = (1 - weight) * (np.log(policy) + 3) + weight * (np.log(reference) - 7)  # logits are log-probabilities but for a constant
    drawn = [draw_token(logits, temperature, uniform) for uniform in (np.arange(2000) + 0.5) / 2000]
    counts = np.bincount([token for token, _ in drawn], minlength=4) / 2000
    assert np.abs(counts - product).max() <= 1 / 2000
    for token, log_prob in drawn:
        assert log_prob == pytest.approx(np.log(product[token]), abs=1e-12)


@given(
    logits=st.lists(st.one_of(st.floats(-900, 900), st.just(-np.inf)), min_size=1, max_size=6), uniform=st.floats(0, 1, exclude_max=True)
)
def test_a_token_without_mass_is_never_drawn(logits: list[float], uniform: float) -> None:
    values = np.array(logits)
    if np.isinf(values).all():
        return
    log_prob = draw_token(values, 1.0, uniform)[1]
    assert np.isfinite(log_prob)
    assert np.exp(log_prob) > 0


async def test_a_mixture_over_grpc(make_model: Callable[..., Path]) -> None:
    """The policy is an inactive version of the reference's model; every token's log-prob is that of the product of both distributions."""
    paths = [make_model("causal", seed=11), make_model("causal", seed=12)]
    server = await create_server(LogProbConfig(model=str(paths[1]), drain_seconds=2.0, threads=1))
    await server.start()
    try:
        async with AsyncClient(server.address) as client:
            loaded = await client.load_version(2, str(paths[0]), name="reference")
            policies = (loaded.model, ModelRef(name="reference"))
            written = [
                await sample_mixture(
                    client,
                    PROMPT,
                    policies,
                    (1.3, -0.3),
                    temperature=0.7,
                    max_tokens=6,
                    end_ids=(1,),
                    rng=np.random.default_rng(seed),
                    timeout_s=30,
                )
                for seed in (0, 1, 0)
            ]
    finally:
        await server.stop()
    assert written[0].token_ids == written[2].token_ids
    assert written[0].token_ids != written[1].token_ids
    models = [AutoModelForCausalLM.from_pretrained(path) for path in paths]
    for one in written[:2]:
        assert one.finish == ("stop" if one.token_ids[-1] == 1 else "length")
        assert one.finish == "stop" or len(one.token_ids) == 6
        with torch.inference_mode():
            rows = [model(input_ids=torch.tensor([PROMPT + one.token_ids])).logits[0, len(PROMPT) - 1 : -1].double() for model in models]
        whole = torch.log_softmax((1.3 * rows[0] - 0.3 * rows[1]) / 0.7, dim=-1)
        expected = whole[torch.arange(len(one.token_ids)), torch.tensor(one.token_ids)]
        np.testing.assert_allclose(one.log_probs, expected.numpy(), atol=1e-3)


async def test_policies_of_other_vocabularies_are_refused(make_model: Callable[..., Path]) -> None:
    class Session:
        def __init__(self, size: int) -> None:
            self.latest = type("Latest", (), {"logits": np.zeros(size)})()

        async def __aenter__(self) -> Session:
            return self

        async def __aexit__(self, *exc: object) -> None:
            pass

    class Client:
        def next_logits(self, prompt_ids: list[int], *, policy: ModelRef, timeout_s: float) -> Session:
            return Session(policy.version)

    with pytest.raises(ValueError, match="vocabularies of 3 and 4 tokens"):
        await sample_mixture(
            Client(),  # type: ignore[arg-type]
            [1],
            (ModelRef(version=3), ModelRef(version=4)),
            (0.5, 0.5),
            temperature=1.0,
            max_tokens=1,
            end_ids=(),
            rng=np.random.default_rng(0),
            timeout_s=1,
        )
