"""Runs the parts one after the other; each has a server of its own."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.verifiers.agreement import against_labels, consensus_against_labels, labelled_files
from benchmarks.verifiers.answers import Labelled, formulas, read_answers
from benchmarks.verifiers.attacked import attacked
from benchmarks.verifiers.hang import hang_costs
from benchmarks.verifiers.hostile import HOSTILE
from benchmarks.verifiers.sandboxed import installed, sandboxed_runs, server_of
from benchmarks.verifiers.served import served
from benchmarks.verifiers.throughput import throughput
from rewardmesh.client import AsyncClient

PARTS = ("math", "hang", "code", "attacks")
CHUNK_ITEMS = 256


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    data: Path | None = None
    only: tuple[str, ...] = PARTS
    repeats: int = 8
    """Times that every labelled answer is sent in a round of throughput."""
    rounds: int = 3
    problems: int = 800
    """Of formulas, four answers each."""
    item_limit_s: float = 2.0
    hostile: int = len(HOSTILE)
    programs: int = 400
    programs_alone: int = 60


def measure(settings: Settings) -> dict[str, Any]:
    """The results by part; a part that was not asked for is not in them."""
    answers, source = read_answers(settings.data)
    results: dict[str, Any] = {"source": source, "settings": {**asdict(settings), "data": None if settings.data is None else "given"}}
    if "math" in settings.only:
        _say("math, consensus and labelled files")
        with served() as address:
            results["math"] = asyncio.run(_math(address, answers, settings))
    if "hang" in settings.only:
        _say("answers that hang")
        hostile = dict(list(HOSTILE.items())[: settings.hostile])
        with served(workers=2, item_timeout_seconds=settings.item_limit_s) as address:
            results["hang"] = asyncio.run(hang_costs(address, hostile, settings.item_limit_s))
    if "code" in settings.only:
        results["code"] = {}
        for kind in installed():
            _say(f"code in {kind}")
            with server_of(kind) as address:
                results["code"][kind] = asyncio.run(sandboxed_runs(address, settings.programs, settings.programs_alone))
    if "attacks" in settings.only:
        results["attacks"] = {}
        for kind in installed():
            _say(f"attacks on {kind}")
            with served(workers=1, sandbox=kind, sandbox_slots=2) as address:
                results["attacks"][kind] = asyncio.run(attacked(address, kind))
    return results


async def _math(address: str, answers: list[Labelled], settings: Settings) -> dict[str, Any]:
    made = formulas(settings.problems)
    async with AsyncClient(address, timeout_s=None, chunk_items=CHUNK_ITEMS) as client:
        agreement, disagreements = await against_labels(client, answers)
        on_formulas, formula_disagreements = await against_labels(client, made)
        consensus = await consensus_against_labels(client, answers)
        labelled = await labelled_files(client)
        many = [answer.build(f"#{number}") for number in range(settings.repeats) for answer in answers]
        rates = await throughput(client, "math", many, settings.rounds)
    # A fresh server for formulas: its workers have not seen these texts, and neither should they have in the second round.
    formula_rates = []
    for number in range(settings.rounds):
        with served() as other:
            async with AsyncClient(other, timeout_s=None, chunk_items=CHUNK_ITEMS) as client:
                formula_rates.append(await _cold(client, formulas(settings.problems, seed=number + 1)))
    return {
        "agreement": agreement.record(),
        "disagreements": disagreements,
        "formulas": on_formulas.record(),
        "formula_disagreements": formula_disagreements,
        "consensus": consensus.record(),
        "labelled": labelled,
        "throughput": rates,
        "cold_formulas": formula_rates,
    }


async def _cold(client: AsyncClient, answers: list[Labelled]) -> dict[str, float]:
    """Formulas a second that workers have not seen before, and how many have no verdict; loading the parsers is not in it."""
    warm = formulas(8, seed=10**6)
    await client.verify([answer.build() for answer in warm], "math")
    samples = [answer.build() for answer in answers]
    loop = asyncio.get_running_loop()
    began = loop.time()
    absent = 0
    async for verdict in client.stream_verify(samples, "math"):
        absent += verdict.absence is not None
    return {"items": len(samples), "items_per_s": len(samples) / (loop.time() - began), "absent": absent}


def _say(part: str) -> None:
    print(f"verifiers: {part}", file=sys.stderr)
