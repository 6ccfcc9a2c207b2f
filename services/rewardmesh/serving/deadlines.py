"""Until when anybody wants what is computed on this thread: for code that could wait longer than makes sense, far from the call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float] = ContextVar("until", default=math.inf)


def wanted_until() -> float:
    """Monotonic time after which nobody does; infinite when there is no deadline."""
    return _until.get()


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """What is done in this block is not wanted after a monotonic time."""
    token = _until.set(deadline)
    try:
        yield
    finally:
        _until.reset(token)
