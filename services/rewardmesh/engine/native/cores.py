"""Who computes on how many threads: the forwards that run at a time divide the threads of the process among themselves.

A batch that runs alone gets all of them, also when it has begun beside others that have ended since.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_running: list[tuple[ctypes.c_int64, int]] = []


@contextmanager
def threads_of(total: int) -> Iterator[ctypes.c_int64]:
    """Within it, the number of threads that this computation may use of `total`; it changes as others begin and end."""
    mine = (ctypes.c_int64(total), total)
    with _lock:
        _running.append(mine)
        _divide()
    try:
        yield mine[0]
    finally:
        with _lock:
            _running[:] = [each for each in _running if each is not mine]
            _divide()


def _divide() -> None:
    for number, total in _running:
        number.value = max(total // len(_running), 1)
