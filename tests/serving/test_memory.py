"""Freed memory stays in the process: the same blocks again cost no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from rewardmesh.serving.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def work():
    for _ in range(20):
        blocks = [np.ones(2**20) for _ in range(12)]  # 8 MiB each, written
        del blocks

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_threads_take_the_same_memory_again() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, mode], check=True, capture_output=True, text=True).stdout)
        for mode in ("keep", "default")
    )
    assert kept < 1000
    assert given_back > 10 * kept
