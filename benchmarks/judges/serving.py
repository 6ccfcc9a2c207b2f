"""A judge service in this process, asked over gRPC as any client asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.judges.pairs import Judged, as_messages
from rewardmesh.client import AsyncClient
from rewardmesh.demo.build import JUDGE_TEXT
from rewardmesh.judge import JudgeConfig, create_server
from rewardmesh.v1 import judge_service_pb2 as api

Floats = npt.NDArray[np.float64]

PLAIN = "plain"
"""Name of the template without fences and marks."""


class NoVerdictError(RuntimeError):
    """A pair that every judge here must be able to judge has no verdict; says why."""


@asynccontextmanager
async def judge(model: Path, templates: Path, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A judge service on a port of the loopback interface, without a cache: every answer is computed anew."""
    plain: dict[str, Any] = {"model": str(model), "templates": [str(templates)], "default_template": PLAIN, "threads": 1, "cache_bytes": 0}
    server = await create_server(JudgeConfig(**(plain | settings)))
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        yield await stack.enter_async_context(AsyncClient(server.address))


def write_plain_template(folder: Path) -> Path:
    """The template of `training.plain_text` as a file; returns it."""
    file = folder / f"{PLAIN}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"name": PLAIN, "kind": "compare", "labels": {"a": "A", "b": "B"}, "text": JUDGE_TEXT}, sort_keys=False))
    return file


async def compare(client: AsyncClient, pairs: Sequence[Judged], *, both: bool = True, **request: Any) -> list[api.Preference]:
    """Verdicts, one a pair.

    Raises:
        NoVerdictError: a pair without one.
    """
    orders = api.COMPARE_ORDERS_BOTH if both else api.COMPARE_ORDERS_AS_GIVEN
    reply = await client.judge.Compare(api.CompareRequest(pairs=as_messages(pairs), orders=orders, **request))
    for pair, outcome in zip(pairs, reply.outcomes, strict=True):
        if outcome.HasField("absence"):
            raise NoVerdictError(f"{pair.question!r}: {outcome.absence.detail}")
    return [outcome.preference for outcome in reply.outcomes]


def probabilities(preferences: Sequence[api.Preference]) -> Floats:
    """p_a of each verdict."""
    return np.array([preference.p_a for preference in preferences])
