"""Keys and values of shared prefixes are kept, found again token by token, bounded in bytes, and go with their version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardmesh.engine.forward import classification_scores
from rewardmesh.engine.loading import LoadedModel, load_model
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.packing import make_plan
from rewardmesh.engine.prefix_cache import PrefixCache
from rewardmesh.reward import RewardConfig

Load = Callable[..., LoadedModel]


def scores(loaded: LoadedModel, sequences: list[list[int]], cache: PrefixCache | None) -> tuple[torch.Tensor, int]:
    with torch.inference_mode():
        values, computed = classification_scores(loaded.model, sequences, packed=True, prefixes=cache)
    return values, sum(computed)


def test_a_prefix_is_computed_once(load: Load) -> None:
    loaded = load("classification", "qwen2")
    cache = PrefixCache(2**30)
    system = list(range(2, 32))
    batches = [[[*system, *[50 + n] * 9, answer] for answer in (7, 8)] for n in range(3)]
    fresh = [scores(loaded, batch, None) for batch in batches]
    found = [scores(loaded, batch, cache) for batch in batches]
    for (expected, _), (value, _) in zip(fresh, found, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
    assert fresh[0][1] == found[0][1] == 30 + 9 + 2
    assert found[1][1] == found[2][1] == 9 + 2
    assert scores(loaded, batches[0], cache)[1] == 2
    assert cache.hit_tokens == 30 * 2 + 39


def test_the_last_token_is_always_computed(load: Load) -> None:
    loaded = load("classification", "qwen2")
    cache = PrefixCache(2**30)
    prompt = list(range(2, 40))
    longer = [[*prompt, 3], [*prompt, 4]]
    scores(loaded, longer, cache)
    value, computed = scores(loaded, [prompt], cache)
    assert computed == 1
    torch.testing.assert_close(value, scores(loaded, [prompt], None)[0], atol=1e-5, rtol=0)


def test_bytes_are_bounded_and_the_oldest_go_first(load: Load) -> None:
    loaded = load("classification", "qwen2")
    per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, key heads, width, float32
    cache = PrefixCache(100 * per_token)
    groups = [[[n, *range(2, 32), answer] for answer in (7, 8)] for n in (40, 41, 42, 43)]
    for group in groups:
        scores(loaded, group, cache)
        assert cache.bytes <= cache.limit_bytes
    assert cache.bytes == 3 * 31 * per_token
    assert scores(loaded, groups[3], cache)[1] == 2
    assert scores(loaded, groups[0], cache)[1] == 31 + 2


def test_clearing_lets_go_of_everything(load: Load) -> None:
    loaded = load("classification", "qwen2")
    cache = PrefixCache(2**30)
    group = [[*range(2, 32), answer] for answer in (7, 8)]
    scores(loaded, group, cache)
    plan = make_plan(group, first=[30, 30], prefixes=cache)
    cache.clear()
    assert cache.bytes == 0
    assert plan.segments[0].cached is not None
    cache.store(plan)
    assert scores(loaded, group, cache)[1] == 32


def test_another_version_has_another_cache(make_model: Callable[..., Path]) -> None:
    group = [[*range(2, 32), answer] for answer in (7, 8)]
    versions = [
        load_model(make_model("classification", seed=seed), "classification", name="tiny", version=seed, prefix_cache_bytes=2**20)
        for seed in (1, 2)
    ]
    twice = [[model.scores(group) for _ in range(2)] for model in versions]
    for first, second in twice:
        assert [value for value, _ in second] == [pytest.approx(value, abs=1e-5) for value, _ in first]
        assert sum(computed for _, computed in second) == 2
    assert twice[0][0][0][0] != pytest.approx(twice[1][0][0][0], abs=1e-3)
    versions[0].trim()
    assert versions[0].prefixes is not None
    assert versions[0].prefixes.bytes == 0


token = st.integers(2, 5)
tree = st.lists(st.lists(token, min_size=1, max_size=14), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(tree, min_size=1, max_size=5), limit=st.sampled_from([0, 2_000, 20_000, 2**30]))
def test_whatever_came_before_scores_are_the_same(load: Load, batches: list[list[list[int]]], limit: int) -> None:
    """Sequences over few tokens share in every possible way; runs are split, matched in part and pushed out."""
    loaded = load("classification", "qwen2")
    cache = PrefixCache(limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewardmesh.engine.forward.make_plan", lambda s, **k: make_plan(s, 1, **k))
        for batch in batches:
            found, computed = scores(loaded, batch, cache)
            expected, without = scores(loaded, batch, None)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
            assert computed <= without
            assert cache.bytes <= limit
            assert cache.bytes == sum(node.bytes for node in cache._recency)


@pytest.mark.parametrize(("invariant", "native"), [(False, False), (True, False), (True, True)])
def test_equality_to_the_bit_needs_an_empty_cache_where_torch_computes(reward_model: Path, invariant: bool, native: bool) -> None:
    config = RewardConfig(model=str(reward_model), batch_invariant=invariant, native=native)
    model = open_model(config, "classification", "scores", path=config.model, version=1)
    assert isinstance(model, LoadedModel)
    assert (model.prefixes is None) == (invariant and not native)
    assert model.batch_invariant == native
