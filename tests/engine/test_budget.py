"""The token budget that a server finds for itself, and how it divides the CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardmesh.engine import budget as module
from rewardmesh.engine.budget import (
    DEFAULT_BUDGET,
    LARGEST_CPU,
    SEQUENCE_TOKENS,
    SMALLEST,
    SMALLEST_BUDGET,
    WHOLE_GROUP,
    Measured,
    choose,
    measure,
    runner,
    side_by_side,
    with_budget,
)
from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.interface import Ability
from rewardmesh.engine.loading import load_model
from rewardmesh.engine.threads import MOST_WORKERS, worker_count, worker_initialiser

CPU = torch.device("cpu")


def table(*rates: float, first: int = 256) -> list[Measured]:
    """Sizes doubling from `first` with these throughputs in tokens a second."""
    return [Measured(first << n, (first << n) / rate, 0) for n, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((1e3, 4e3, 8e3, 9.9e3, 9e3, 1e4), 2048),  # the smallest within three percent of the best
        ((1e4, 1.01e4, 1e4, 1e4), 1024),  # flat: the least that is allowed
        ((9e3, 1e4, 1.2e4, 1e4, 8e3), 1024),  # larger batches leave the caches
        ((2e4, 1e4, 9e3), 1024),  # smaller ones do not count, however fast
        ((1e3, 2e3, 4e3, 8e3, 1.6e4, 3.2e4, 6.4e4), 16384),  # still rising at the end
        ((200, 200), 400),  # so slow that two seconds are the bound
        ((1.0,), SMALLEST),
        ((), SMALLEST_BUDGET),
    ],
)
def test_the_budget_is_the_smallest_size_that_is_nearly_best(rates: tuple[float, ...], expected: int) -> None:
    assert choose(table(*rates)) == expected


class Sizes:
    """Records what it is asked to compute."""

    def __init__(self, work: Callable[[int], object] = lambda tokens: None) -> None:
        self.lengths: list[list[int]] = []
        self._work = work

    def __call__(self, sequences: Sequence[Any]) -> None:
        self.lengths.append([len(ids) for ids in sequences])
        assert all(int(ids.min()) >= 0 and int(ids.max()) < 50 for ids in sequences)
        self._work(sum(map(len, sequences)))

    @property
    def sizes(self) -> list[int]:
        return [sum(lengths) for lengths in self.lengths]


def test_sizes_double_and_sequences_fit_the_model() -> None:
    run = Sizes(lambda tokens: time.sleep(tokens * 1e-6))
    found = measure(run, 50, max_tokens=100, device=CPU, largest=1024, seconds=20.0)
    assert [row.tokens for row in found][:2] == [256, 512]
    assert max(max(lengths) for lengths in run.lengths) == 100
    assert all(row.seconds > 0 and row.tokens_per_second > 0 for row in found)
    run = Sizes(lambda tokens: time.sleep(tokens * 1e-6))
    measure(run, 50, max_tokens=10_000, device=CPU, largest=256, seconds=20.0)
    assert max(max(lengths) for lengths in run.lengths) == SEQUENCE_TOKENS


def test_sizes_are_closer_where_the_budget_lies() -> None:
    sizes = [SMALLEST]
    while sizes[-1] < 8192:
        sizes.append(module._next_size(sizes[-1]))
    assert sizes == [256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192]


def test_measuring_ends_before_it_takes_too_long() -> None:
    run = Sizes(lambda tokens: time.sleep(tokens * 2e-4))  # 256 tokens take 51 ms, 4096 would take 0.8 s
    began = time.monotonic()
    found = measure(run, 50, max_tokens=512, device=CPU, seconds=0.5)
    assert found
    assert max(run.sizes) < LARGEST_CPU
    assert time.monotonic() - began < 5.0


def test_measuring_ends_before_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Memory, "free_bytes", lambda self: 100 * 2**20)

    def hungry(tokens: int) -> None:
        held = torch.ones(tokens * 2**15 // 4)  # 32 KiB a token: 16 MiB at 512
        time.sleep(0.02)
        del held

    run = Sizes(hungry)
    found = measure(run, 50, max_tokens=512, device=CPU, seconds=20.0)
    assert found
    assert max(run.sizes) <= 1536, "2048 tokens would take more than half of what is free"
    assert found[-1].memory_bytes > 0


def test_a_batch_that_does_not_fit_ends_it_too() -> None:
    def limited(tokens: int) -> None:
        time.sleep(tokens * 1e-6)
        if tokens > 512:
            raise torch.OutOfMemoryError("no more")

    found = measure(Sizes(limited), 50, max_tokens=512, device=CPU)
    assert [row.tokens for row in found] == [256, 512]

    def hopeless(tokens: int) -> None:
        raise MemoryError

    assert measure(Sizes(hopeless), 50, max_tokens=512, device=CPU) == []


def test_a_very_slow_model_is_measured_once() -> None:
    run = Sizes(lambda tokens: time.sleep(0.3))
    [row] = measure(run, 50, max_tokens=512, device=CPU, seconds=0.5)
    assert row.tokens == 256
    assert len(run.lengths) == 1


def test_a_model_that_refuses_made_up_input_is_served_all_the_same(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(reward_model, "classification", name="m", version=1)

    def refuse(sequences: Sequence[Any]) -> list[Any]:
        raise ValueError("no image")

    monkeypatch.setattr(module, "SMALL_MODEL", 0)
    monkeypatch.setattr(model.__class__, "scores", lambda self, sequences: refuse(sequences))
    assert with_budget(ModelServerConfig(model=str(reward_model)), model, "scores").target_tokens == SMALLEST_BUDGET


def test_falling_throughput_ends_it() -> None:
    run = Sizes(lambda tokens: time.sleep(0.01 if tokens <= 256 else 0.2))
    measure(run, 50, max_tokens=512, device=CPU, seconds=20.0)
    assert max(run.sizes) == 512


def test_all_workers_measure_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    with ThreadPoolExecutor(3) as pool:
        side_by_side(lambda sequences: together.wait(), pool, 3)([])
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda sequences: 1 // 0, pool, 3)([])


@pytest.mark.parametrize(("kind", "ability"), [("classification", "scores"), ("causal", "label_log_probs"), ("causal", "token_statistics")])
def test_a_server_measures_the_method_it_will_call(
    kind: Any, ability: Ability, reward_model: Path, causal_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = reward_model if kind == "classification" else causal_model
    model = load_model(path, kind, name="m", version=1)
    config = ModelServerConfig(model=str(path), threads=2)
    small = with_budget(config, model, ability)
    assert small.budget_tokens == DEFAULT_BUDGET, "a small model is not worth the time"
    assert small.workers == 2
    monkeypatch.setattr(module, "SMALL_MODEL", 0)
    monkeypatch.setattr(module, "MEASURE_S", 0.5)
    found = with_budget(config, model, ability)
    assert SMALLEST <= found.target_tokens <= LARGEST_CPU
    assert found.budget_tokens == max(found.target_tokens, WHOLE_GROUP)
    assert found.model_copy(update={"budget_tokens": 0, "target_tokens": 0, "workers": 0}) == config
    fixed = with_budget(ModelServerConfig(model=str(path), budget_tokens=77, workers=3), model, ability)
    assert (fixed.budget_tokens, fixed.workers) == (77, 3), "what is configured stays"
    with pytest.raises(ValueError, match="no token budget"):
        runner(model, "sample")


def test_the_cpu_is_divided_among_workers() -> None:
    def config(**fields: Any) -> ModelServerConfig:
        return ModelServerConfig(**({"model": "m"} | fields))

    assert worker_count(config(threads=3)) == 3
    assert worker_count(config(threads=100)) == MOST_WORKERS
    assert worker_count(config(threads=3, workers=2)) == 2
    assert worker_count(config(threads=3, device="cuda:1")) == 1
    assert worker_count(config(threads=3, engine="vllm")) == 1
    assert worker_initialiser(config(device="cuda"), 1) is None
    assert worker_initialiser(config(engine="openai"), 1) is None
    seen: list[int] = []

    def look(initialise: Callable[[], None]) -> None:
        initialise()
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    for workers, threads in ((2, 5), (4, 2)):
        initialise = worker_initialiser(config(threads=threads), workers)
        assert initialise is not None
        thread = threading.Thread(target=look, args=(initialise,))
        thread.start()
        thread.join()
    torch.set_num_threads(before)
    assert seen == [2, 1]


def test_options_reach_the_batcher() -> None:
    config = ModelServerConfig(
        model="m", budget_tokens=5, workers=2, max_delay_seconds=0.5, max_wait_seconds=9.0, tenant_weights={"a": 2.0}, threads=2
    )
    options = config.batching()
    assert options["workers"] == 2
    assert options["tenant_weights"] == {"a": 2.0}
    assert (options["budget_tokens"], options["max_delay_seconds"], options["max_wait_seconds"]) == (5, 0.5, 9.0)
    with pytest.raises(ValueError, match="tenant_weights"):
        ModelServerConfig(model="m", tenant_weights={"a": 0.0})
