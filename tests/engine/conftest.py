"""Models in memory, read once for each architecture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardmesh.engine.loading import Kind, LoadedModel, load_model

Load = Callable[..., LoadedModel]
"""load(kind, architecture, native=False, **config): computed by torch, or by the compiled library where it can."""


@pytest.fixture(scope="session")
def load(make_model: Callable[..., Path]) -> Load:
    @cache
    def loaded(kind: Kind, architecture: str, native: bool = False, **changes: Any) -> LoadedModel:
        path = make_model(kind, architecture, **changes)
        return load_model(path, kind, name="tiny", version=1, native=native)

    return loaded


@pytest.fixture(scope="session")
def sequences() -> list[list[int]]:
    """Two prompts behind one system prompt, three answers each, one of them twice, and a stranger."""
    random = np.random.default_rng(0)

    def draw(n: int) -> list[int]:
        return [int(token) for token in random.integers(2, 300, n)]

    system, prompts = draw(15), [draw(12), draw(9)]
    result = [[*system, *prompt, *draw(n)] for prompt in prompts for n in (5, 11, 1)]
    return [*result, result[0], draw(7)]
