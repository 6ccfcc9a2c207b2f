"""The token budget of a batch, found by measuring the model itself when a server starts.

Throughput rises with the size of a batch until the machine is busy. From there on larger batches only make everybody wait longer, and on
a CPU they leave its caches and become slower again. The target is the smallest size, of at least `SMALLEST_BUDGET` tokens, that comes
within 3 % of the best. It is found by running
made-up batches of 256, 512, 1024, 1536, 2048, 3072, ... tokens, without anything to share, through the method that the service will
call, on as many threads as will compute. Measuring ends when it would take too long, when the next
size could take too large a part of the free memory, or when throughput falls. Nothing that arrives should have to wait for a running
batch longer than about `LONGEST_BATCH_S`; where the machine is so slow, the target is less. The budget is the target too, but for one
group whose answers share a prompt: it may make a batch of up to `WHOLE_GROUP` tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.interface import Ability, ServedModel
from rewardmesh.engine.threads import worker_count, worker_initialiser
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.memory import available_bytes

log = get_logger(__name__)

C = TypeVar("C", bound=ModelServerConfig)

DEFAULT_BUDGET = 16384
"""Of models that are not measured: those that another process computes, which forms batches of its own, and small ones."""
SMALL_MODEL = 5_000_000
"""Parameters up to which measuring is not worth the time: batches of the default budget take a fraction of a second anyway."""
SEQUENCE_TOKENS = 256
SMALLEST, LARGEST_CPU, LARGEST_GPU = 256, 16384, 131072
SMALLEST_BUDGET = 1024
WHOLE_GROUP = 4096
"""Tokens up to which the answers to one prompt are computed in one batch: cut, they would compute the prompt anew for each part."""
LONGEST_BATCH_S = 2.0
NEARLY_BEST = 0.97
FALLING = 0.85
MEMORY_SHARE = 0.5
MEASURE_S = 5.0

Ids = npt.NDArray[np.int64]
Run = Callable[[Sequence[Ids]], object]


@dataclass(frozen=True)
class Measured:
    """One size of batch.

    Attributes:
        tokens: tokens of each worker's batch.
        seconds: the best of its runs.
        memory_bytes: what all workers took at their peak beyond what was taken before.
    """

    tokens: int
    seconds: float
    memory_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Throughput of one worker."""
        return self.tokens / self.seconds


def with_budget(config: C, model: ServedModel, ability: Ability) -> C:
    """The configuration with the number of workers and the token budget: as configured, or found where they are 0.

    Measuring blocks for up to about `MEASURE_S`.

    Args:
        ability: the method that the service calls.
    """
    workers = worker_count(config)
    budget, target = config.budget_tokens or DEFAULT_BUDGET, config.target_tokens
    # With batch_invariant a budget that differs after a restart would cut large groups elsewhere, and change the last bit of their scores.
    apart = config.batch_invariant and not model.batch_invariant
    if not (config.budget_tokens or apart) and model.engine == "transformers" and model.parameters > SMALL_MODEL:
        table = _measured(config, model, ability, workers)
        target = target or choose(table)
        budget = max(target, WHOLE_GROUP)
        log.info(
            "token budget measured",
            model=model.name,
            workers=workers,
            budget_tokens=budget,
            target_tokens=target,
            tokens_per_second={row.tokens: round(workers * row.tokens_per_second) for row in table},
            memory_mib={row.tokens: round(row.memory_bytes / 2**20) for row in table},
        )
    return config.model_copy(update={"workers": workers, "budget_tokens": budget, "target_tokens": target})


def _measured(config: ModelServerConfig, model: ServedModel, ability: Ability, workers: int) -> list[Measured]:
    with ThreadPoolExecutor(workers, "budget", worker_initialiser(config, workers) or (lambda: None)) as pool:
        run = side_by_side(runner(model, ability), pool, workers)
        try:
            return measure(run, model.vocabulary, max_tokens=model.max_tokens, device=torch.device(model.device_name))
        except Exception as error:  # noqa: BLE001 - a model may refuse made-up input in any way; real input is still to come
            log.warning("token budget: the model does not take made-up input; set budget_tokens", error=repr(error))
            return []


def choose(table: Sequence[Measured]) -> int:
    """The budget that a table of measured sizes suggests; the least when nothing could be measured."""
    large = [row for row in table if row.tokens >= SMALLEST_BUDGET] or list(table)
    if not large:
        return SMALLEST_BUDGET
    best = max(row.tokens_per_second for row in large)
    target = next(row.tokens for row in large if row.tokens_per_second >= NEARLY_BEST * best)
    return max(min(max(target, SMALLEST_BUDGET), int(LONGEST_BATCH_S * best)), SMALLEST)


def side_by_side(run: Run, pool: ThreadPoolExecutor, workers: int) -> Run:
    """The same on all workers at once: they share memory and its bandwidth, as they will when they serve."""

    def all_run(sequences: Sequence[Ids]) -> None:
        for done in [pool.submit(run, sequences) for _ in range(workers)]:
            done.result()

    return all_run


def measure(
    run: Run, vocabulary: int, *, max_tokens: int, device: torch.device, largest: int = 0, seconds: float = MEASURE_S
) -> list[Measured]:
    """Run growing batches; returns what they took, smallest first, empty when not even the smallest could be run.

    Args:
        run: computes sequences of token ids, on one worker or on all.
        vocabulary: number of token ids to draw from.
        max_tokens: longest sequence.
        largest: largest batch; 0 for that of the device.
        seconds: bound on the whole, kept by leaving out what is expected to exceed it.
    """
    began = time.monotonic()
    memory = _Memory(device)
    generator = np.random.default_rng(0)
    largest = largest or (LARGEST_CPU if device.type == "cpu" else LARGEST_GPU)
    table: list[Measured] = []
    size = SMALLEST
    try:
        # Warms up: kernels are chosen, memory is taken.
        first = _measure_size(run, generator, vocabulary, size, max_tokens, memory, until=began)
        if first.seconds > seconds / 3:
            return [first]
        while size <= largest:
            if table:
                last = table[-1]
                if 2.5 * last.memory_bytes > MEMORY_SHARE * memory.free_bytes():
                    log.info("token budget: larger batches might not fit in memory", tokens=size)
                    break
                if time.monotonic() - began + 2 * last.seconds > seconds:
                    break
            row = _measure_size(run, generator, vocabulary, size, max_tokens, memory, until=began + seconds)
            table.append(row)
            if row.tokens_per_second < FALLING * max(each.tokens_per_second for each in table):
                break
            size = _next_size(size)
    except (torch.OutOfMemoryError, MemoryError) as error:
        log.warning("token budget: a batch did not fit in memory", tokens=size, error=str(error))
    finally:
        memory.release()
    return table


def runner(model: ServedModel, ability: Ability) -> Run:
    """The method of a model as a function of sequences alone."""
    if ability == "scores":
        return model.scores
    if ability == "label_log_probs":
        return lambda sequences: model.label_log_probs([(ids, (0, 1)) for ids in sequences])
    if ability == "token_statistics":
        # Half prompt, half completion.
        return lambda sequences: model.token_statistics(
            [(ids[: len(ids) // 2], ids[len(ids) // 2 :]) for ids in sequences], temperature=1.0, extras=(), top_k=0
        )
    raise ValueError(f"{ability} has no token budget")


def _measure_size(
    run: Run, generator: np.random.Generator, vocabulary: int, size: int, max_tokens: int, memory: _Memory, *, until: float
) -> Measured:
    """The best of up to three runs, fewer when time is short; other tokens each time, so that no cache of prefixes helps."""
    best, peak = float("inf"), 0
    for _ in range(3):
        sequences = _sequences(generator, vocabulary, size, max_tokens)
        with memory:
            began = time.monotonic()
            run(sequences)
            memory.wait()
            best = min(best, time.monotonic() - began)
        peak = max(peak, memory.growth_bytes)
        if time.monotonic() + best > until:
            break
    return Measured(size, best, peak)


def _next_size(tokens: int) -> int:
    """Powers of two, from `SMALLEST_BUDGET` on with the sizes half-way between."""
    if tokens < SMALLEST_BUDGET:
        return 2 * tokens
    return tokens * 3 // 2 if tokens.bit_count() == 1 else tokens * 4 // 3


def _sequences(generator: np.random.Generator, vocabulary: int, tokens: int, max_tokens: int) -> list[Ids]:
    length = min(SEQUENCE_TOKENS, max_tokens)
    lengths = [length] * (tokens // length) + ([tokens % length] if tokens % length > 1 else [])
    return [generator.integers(0, vocabulary, size) for size in lengths]


class _Memory:
    """How much memory a stretch of code takes at its peak; a context manager that can be entered again and again."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.growth_bytes = 0

    def __enter__(self) -> _Memory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return self
        self._before = self._peak = _resident_bytes()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="budget-memory", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.growth_bytes = torch.cuda.max_memory_allocated(self._device) - self._before
            return
        self._ended.set()
        self._watcher.join()
        self.growth_bytes = self._peak - self._before

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self._peak = max(self._peak, _resident_bytes())

    def wait(self) -> None:
        """Until the device has computed what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def free_bytes(self) -> int:
        """What could still be taken."""
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            return int(free) + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return available_bytes()

    def release(self) -> None:
        """Give back what only measuring needed."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:  # no Linux: no guard on this side
        return 0
