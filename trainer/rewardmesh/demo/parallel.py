"""Run slow functions in processes of their own, side by side, and hear of their progress.

Processes instead of threads of one computation: on a few cores, small models gain more from one thread each.
"""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from rewardmesh.serving.lifeline import die_with

Job = tuple[Callable[..., None], tuple[Any, ...]]
"""A function of a module and its arguments; it is called with a progress function after them."""


class JobFailed(RuntimeError):
    """A job ended with an exception or was killed; the message holds its traceback or exit code."""


def run_parallel(jobs: Sequence[Job], progress: Callable[..., None] | None) -> None:
    """Run all jobs to their end; `progress` is called here with what they report.

    Raises:
        JobFailed: the first failure; the other jobs are then ended.
    """
    # Waiting threads must not spin: the cores belong to the other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    processes: list[BaseProcess] = [context.Process(target=_work, args=(job, reports, os.getpid()), daemon=True) for job in jobs]
    try:
        for process in processes:
            process.start()
        running = len(processes)
        while running:
            try:
                kind, content = reports.get(timeout=0.5)
            except queue.Empty:
                _check_alive(processes)
                continue
            if kind == "failed":
                raise JobFailed(content)
            if kind == "done":
                running -= 1
            elif progress:
                progress(*content)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _check_alive(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.exitcode:
            raise JobFailed(f"a process that builds models ended with exit code {process.exitcode}")


def _work(job: Job, reports: Any, parent_pid: int) -> None:
    die_with(parent_pid)
    function, arguments = job
    try:
        function(*arguments, lambda *content: reports.put(("progress", content)))
    except Exception:  # noqa: BLE001 - whatever it is, the parent reports it and ends
        reports.put(("failed", traceback.format_exc()))
        return
    reports.put(("done", None))
