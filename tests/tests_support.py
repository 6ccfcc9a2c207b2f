"""Helpers that tests of several packages share."""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_digest(model_dir: Path) -> str:
    """SHA-256 of a model directory's weights."""
    return hashlib.sha256((model_dir / "model.safetensors").read_bytes()).hexdigest()
