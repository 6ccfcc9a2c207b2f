"""A judge with random weights on a loopback server, and templates written for its small vocabulary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.client import AsyncClient
from rewardmesh.judge import JudgeConfig, create_server

SHORT = """
name: short
labels: {a: A, b: B}
text: "{{ prompt }} A: {{ a }} B: {{ b }} Which is better?"
"""
TIE = """
name: with-tie
labels: {a: A, b: B, tie: T}
text: "{{ prompt }} A: {{ a }} B: {{ b }} A, B or equally good?"
"""
REFERENCE = """
name: reference
labels: {a: A, b: B}
text: "{{ prompt }} gold: {{ references[0] }} A: {{ a }} B: {{ b }}"
"""
SCORES = """
name: scores
kind: grade
labels: [1, 2, 3, 4, 5]
text: "{{ prompt }} answer: {{ completion }} Grade {{ criterion.text }} from 1 to 5."
criteria:
  - {id: clear, text: clarity, weight: 3}
"""
WHOLE = """
name: whole
kind: grade
labels: ["0", "1"]
max: 4
text: "{{ prompt }} answer: {{ completion }}"
"""
YES_NO = """
name: yes-no
kind: grade
labels: {yes: "Y", no: "N"}
text: "{{ prompt }} answer: {{ completion }} {{ criterion.text }}?"
"""

Serve = Callable[..., Any]
"""serve(**config) -> async context manager of an AsyncClient."""


@pytest.fixture(scope="session")
def judge_model(make_model: Callable[..., Path]) -> Path:
    return make_model("causal", max_position_embeddings=4096)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("templates")
    for text in (SHORT, TIE, REFERENCE, SCORES, WHOLE, YES_NO):
        name = text.split("\n")[1].removeprefix("name: ")
        (directory / f"{name}.yaml").write_text(text)
    return directory


@pytest.fixture
def serve(judge_model: Path, templates: Path) -> Serve:
    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[AsyncClient]:
        # Random weights give the labels little of the mass.
        settings: dict[str, Any] = {"model": str(judge_model), "name": "tiny", "templates": [str(templates)], "default_template": "short"}
        settings |= {"default_rubric": "yes-no", "min_label_mass": 0.0, "drain_seconds": 2.0}
        server = await create_server(JudgeConfig(**(settings | changes)))
        await server.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            yield await stack.enter_async_context(AsyncClient(server.address))

    return start
