"""What the gateway adds: workload A through a reward program of one signal, against the same items straight to the reward server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.scoring.contender import IN_FLIGHT, ContenderError, Item, Setup, thread_environment
from benchmarks.scoring.ours import CHUNK, Ours, samples, serve, values
from rewardmesh.client import Client

NAME = "scorer"
PROGRAM = f"""
name: direct
signals:
  score: {{reward: {NAME}}}
reward: score
"""


def measure_gateway(setup: Setup, variant: Mapping[str, str], rounds: Sequence[Sequence[Item]]) -> dict[str, Any]:
    """Time both ways in turn on the same items, of which each pass has a beginning of its own so that no cache serves the second.

    Args:
        rounds: items of each pair of passes; the first pair is not counted.

    Returns:
        {"pairs": [{"items", "direct_s", "gateway_s"}], "more_time": median of gateway / direct - 1}.
    """
    program = setup.folder / "program.yaml"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(PROGRAM)
    reward = Ours(name=NAME)
    pairs = []
    try:
        reward.start(setup, variant)
        fields = {"programs": [str(program)], "backends": {"reward": reward.address}}
        process, address, _ = serve("gateway", fields, setup.folder / "gateway.log", thread_environment(1, {}))
        try:
            with _client(reward.address) as direct, _client(address) as gateway:
                for number, items in enumerate(rounds):
                    ways: dict[str, Callable[[Sequence[Any]], list[float]]] = {
                        "direct_s": lambda asked: values(direct.score(asked)),
                        "gateway_s": lambda asked: _evaluated(gateway, asked),
                    }
                    pair: dict[str, Any] = {"items": len(items)}
                    for name in list(ways)[:: -1 if number % 2 else 1]:
                        asked = samples(items, f"{name}{number}")
                        for one in asked:
                            one.prompt[0].content = f"({name} {number}) {one.prompt[0].content}"
                        began = time.perf_counter()
                        ways[name](asked)
                        pair[name] = time.perf_counter() - began
                    if number:
                        pairs.append(pair)
                same = samples(rounds[0], "same")
                if max(abs(a - b) for a, b in zip(_evaluated(gateway, same), values(direct.score(same)), strict=True)) > 1e-4:
                    raise ContenderError("the gateway's rewards differ from the scores")
        finally:
            process.stop()
    finally:
        reward.stop()
    return {"pairs": pairs, "more_time": statistics.median(pair["gateway_s"] / pair["direct_s"] for pair in pairs) - 1}


def _client(address: str) -> Client:
    return Client(address, timeout_s=None, chunk_items=CHUNK, concurrency=IN_FLIGHT // CHUNK)


def _evaluated(client: Client, asked: Sequence[Any]) -> list[float]:
    found = []
    for evaluation in client.evaluate(asked).evaluations:
        if evaluation.value is None:
            raise ContenderError(f"{evaluation.sample_id} has no reward: {evaluation.absence}")
        found.append(evaluation.value)
    return found
