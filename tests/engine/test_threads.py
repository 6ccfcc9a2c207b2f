"""Threads that compute divide the processor and stand behind those that answer."""

from __future__ import annotations

import os
import threading

import torch

from rewardmesh.engine.threads import MOST_WORKERS, NICENESS, worker_count, worker_initialiser
from rewardmesh.reward import RewardConfig


def test_a_worker_takes_its_part_and_stands_back() -> None:
    initialise = worker_initialiser(RewardConfig(model="m", threads=6), 3)
    assert initialise is not None
    found: list[tuple[int, int]] = []

    def work() -> None:
        initialise()
        found.append((torch.get_num_threads(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(2, before + NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before, "only the worker"


def test_a_gpu_has_one_worker_and_a_processor_one_a_thread() -> None:
    assert worker_count(RewardConfig(model="m", device="cuda")) == 1
    assert worker_count(RewardConfig(model="m", threads=3)) == 3
    assert worker_count(RewardConfig(model="m", threads=100)) == MOST_WORKERS
    assert worker_count(RewardConfig(model="m", threads=100, workers=20)) == 20
    assert worker_initialiser(RewardConfig(model="m", device="cuda"), 1) is None
