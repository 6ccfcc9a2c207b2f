"""How the CPU is divided: batches side by side, each on few threads, rather than one batch on all of them.

The operations of a batch that fits a cache are short, and threads that share one wait for each other at the end of each. Batches
that run beside each other do not. So by default a CPU gets one worker a thread; a GPU gets one worker in all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import torch

from rewardmesh.engine.config import ModelServerConfig

MOST_WORKERS = 8
"""Beyond that the memory that each batch takes, and the parts that Python computes alone, cost more than is gained."""


NICENESS = 5
"""By how much threads that compute stand behind those that receive and answer."""


def worker_count(config: ModelServerConfig) -> int:
    """Threads that compute batches: as configured, or by the device where it is 0."""
    if config.workers:
        return config.workers
    if config.engine != "transformers" or torch.device(config.device).type != "cpu":
        return 1
    return min(total_threads(config), MOST_WORKERS)


def worker_initialiser(config: ModelServerConfig, workers: int) -> Callable[[], None] | None:
    """What each of these threads runs first: it takes its part of the CPU. None where torch does not compute on the CPU."""
    if config.engine != "transformers" or torch.device(config.device).type != "cpu":
        return None
    threads = max(total_threads(config) // workers, 1)

    def initialise() -> None:
        torch.set_num_threads(threads)  # with OpenMP the number holds for the thread that sets it
        # The event loop answers, and refuses, while all processors compute: on Linux a thread has a niceness of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)

    return initialise


def total_threads(config: ModelServerConfig) -> int:
    """CPU threads of the engine in all."""
    return config.threads or torch.get_num_threads()
