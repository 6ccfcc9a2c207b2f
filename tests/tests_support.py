"""Helpers that tests of several packages share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path


def weights_digest(model_dir: Path) -> str:
    """SHA-256 of a model directory's weights."""
    return hashlib.sha256((model_dir / "model.safetensors").read_bytes()).hexdigest()


def fails(progress: Callable[..., None]) -> None:
    """A job that fails; processes find it by name."""
    raise ValueError("no such luck")


def reports(progress: Callable[..., None]) -> None:
    """A job that reports once."""
    progress("half")
