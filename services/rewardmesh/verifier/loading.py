"""Lets a check say that it loads something it needs once a process, so that no sample pays for that with its own limit of time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

LOADING_S = 30.0
"""Longest time that loading may take, seconds."""

_announce: Callable[[], AbstractContextManager[None]] = nullcontext


def loading() -> AbstractContextManager[None]:
    """Around what is loaded once: no model may be loaded twice by it, or text could buy time."""
    return _announce()


def announce_by(announce: Callable[[], AbstractContextManager[None]]) -> None:
    """Have `announce` called in place of `loading`; a worker tells the pool."""
    global _announce
    _announce = announce
