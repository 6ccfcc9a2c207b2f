"""Contenders without a server: a process of their own that takes token ids from a pipe. The bare engine loop, and padded transformers."""

from __future__ import annotations

import multiprocessing
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from benchmarks.scoring.contender import Contender, ContenderError, Ids, Item, Setup, environment_with, thread_environment

Scorer = Callable[[Sequence[tuple[int, Ids]]], list[float]]
"""From (group, token ids) to scores, in order."""
APPS = Path(__file__).parent / "apps"


class LocalContender(Contender):
    """Starts a process that makes a scorer and runs it on what comes through the pipe."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    @property
    @abstractmethod
    def make(self) -> Callable[[Setup, Mapping[str, str]], Scorer]:
        """A function of a module, called in the process."""

    def environment(self, setup: Setup, variant: Mapping[str, str]) -> dict[str, str]:
        """The environment of the process, added to ours."""
        return thread_environment(setup.threads, variant)

    def start(self, setup: Setup, variant: Mapping[str, str]) -> None:
        """See Contender."""
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_run, args=(self.make, setup, dict(variant), there), daemon=True)
        before = dict(os.environ)
        wanted = environment_with(self.environment(setup, variant))
        try:
            os.environ.clear()
            os.environ.update(wanted)  # OpenMP reads it when the process starts
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        there.close()
        self._receive()

    def score(self, items: Sequence[Item]) -> list[float]:
        """See Contender."""
        if self._pipe is None:
            raise ContenderError("is not started")
        self._pipe.send([(item.group, item.ids) for item in items])
        found: list[float] = self._receive()
        return found

    def stop(self) -> None:
        """See Contender."""
        if self._pipe:
            self._pipe.close()
            self._pipe = None
        if self._process:
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None

    def _receive(self) -> Any:
        assert self._pipe is not None
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise ContenderError("its process ended") from error


class Bare(LocalContender):
    """Our engine alone, without server, queue or tokenising.

    Groups stay together, batches hold so many tokens really computed, and so many run side by side on an equal part of the threads; what
    is best is found in the calibration. Cutting the batches is timed too: a server has to do it.
    """

    name = "bare"
    title = "rewardmesh, bare engine loop"
    variants = (
        {"budget": "2048", "workers": "2"},
        {"budget": "1024", "workers": "2"},
        {"budget": "4096", "workers": "2"},
        {"budget": "4096", "workers": "1"},
        {"budget": "2048", "workers": "1"},
    )

    @property
    def make(self) -> Callable[[Setup, Mapping[str, str]], Scorer]:
        """See LocalContender."""
        return _bare


class Padded(LocalContender):
    """Transformers with padded batches, sorted by length, in this environment: what a GPU run is compared with."""

    name = "padded"
    title = "transformers, padded batches"
    variants = ({"micro": "32"}, {"micro": "16"}, {"micro": "64"}, {"micro": "128"})

    @property
    def make(self) -> Callable[[Setup, Mapping[str, str]], Scorer]:
        """See LocalContender."""
        return _padded

    def environment(self, setup: Setup, variant: Mapping[str, str]) -> dict[str, str]:
        """What `padded.PaddedScorer` reads."""
        return {
            **super().environment(setup, variant),
            "BENCH_MODEL": str(setup.model),
            "BENCH_THREADS": str(setup.threads),
            "BENCH_DTYPE": setup.dtype,
            "BENCH_DEVICE": setup.device,
            "BENCH_MICRO": variant.get("micro", "32"),
            "BENCH_WORKERS": "1",
        }


def cut_by_budget(items: Sequence[tuple[int, Ids]], budget: int) -> list[list[Ids]]:
    """Batches of whole groups whose tokens really computed stay within the budget; a single larger group is a batch.

    Args:
        items: (group, token ids), groups beside each other.
    """
    from rewardmesh.engine.packing import make_plan

    groups: list[tuple[int, list[Ids]]] = []
    for group, ids in items:
        if not groups or groups[-1][0] != group:
            groups.append((group, []))
        groups[-1][1].append(ids)
    batches: list[list[Ids]] = []
    used = budget
    for _, sequences in groups:
        cost = len(make_plan(sequences).token_ids)
        if used + cost > budget:
            batches.append([])
            used = 0
        batches[-1] += sequences
        used += cost
    return batches


def _run(make: Callable[[Setup, Mapping[str, str]], Scorer], setup: Setup, variant: Mapping[str, str], pipe: Connection) -> None:
    with pipe:
        scorer = make(setup, variant)
        pipe.send("ready")
        while True:
            try:
                items = pipe.recv()
            except EOFError:
                return
            pipe.send(scorer(items))


def _bare(setup: Setup, variant: Mapping[str, str]) -> Scorer:
    import torch

    from rewardmesh.engine.loading import load_model

    workers = max(1, min(setup.threads, int(variant.get("workers", "1"))))
    torch.set_num_threads(setup.threads)
    model = load_model(str(setup.model), "classification", name="bare", version=1, device=setup.device, dtype=setup.dtype)
    budget = int(variant.get("budget", "4096"))
    pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(setup.threads // workers))
    return lambda items: [value[0] for scores in pool.map(model.scores, cut_by_budget(items, budget)) for value, _ in scores]


def _padded(setup: Setup, variant: Mapping[str, str]) -> Scorer:
    sys.path.insert(0, str(APPS))
    from padded import PaddedScorer

    scorer = PaddedScorer()

    def score(items: Sequence[tuple[int, Ids]]) -> list[float]:
        values: list[float] = scorer([ids for _, ids in items])
        return values

    return score
