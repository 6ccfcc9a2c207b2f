"""One model: everybody's gradient of the same batch is compared, then everybody updates in turn, round by round."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks._items import Shape, read_questions, write_model
from benchmarks.trainer.batch import write_batch
from benchmarks.trainer.contender import Contender, ours, peer

OURS = "rewardmesh"


@dataclass(frozen=True)
class Race:
    """A model, and how much it trains on.

    questions: of the batch, four answers each.
    tried: sizes of the peer's micro-batches, the fastest of which races; tried_questions: of the smaller batch that decides that.
    """

    model: str
    shape: Shape
    questions: int
    rounds: int
    tried: Sequence[int] = (2, 4, 8)
    tried_questions: int = 4
    ablations: Sequence[str] = ("sharing", "packing")


def run_race(race: Race, data: Path | None, threads: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Results of one model, as the JSON keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, source = read_questions(data, race.questions)
    model, batch = folder / "model", folder / "batch.json"
    parameters = write_model(model, questions, race.shape, kind="causal")
    tokens = write_batch(batch, model, questions)
    small = folder / "small.json"
    write_batch(small, model, questions[: race.tried_questions])
    calibration = {padding: _try(race, padding, model, small, threads, folder, say) for padding in ("generation", "micro-batch")}
    fastest = {padding: min(tried, key=lambda size: tried[size]) for padding, tried in calibration.items()}
    with contextlib.ExitStack() as stack:
        contenders = [
            ours(model, batch, threads, folder),
            *(peer(model, batch, threads, folder, size, padding) for padding, size in fastest.items()),
            *(ours(model, batch, threads, folder, without) for without in race.ablations),
        ]
        for contender in contenders:
            stack.enter_context(contender)
        records = {one.name: _compared(one, folder, say) for one in contenders}
        for number in range(race.rounds):
            for contender in contenders if number % 2 == 0 else contenders[::-1]:
                answer = contender.ask("step")
                records[contender.name]["updates"].append({"round": number, **answer})
                say(f"{race.model}, round {number}: {contender.title}: {answer['seconds']:.2f} s")
    return {
        "parameters": parameters,
        "source": source,
        "questions": race.questions,
        "sequences": 4 * race.questions,
        "tokens_read": tokens,
        "peer": f"trl-generation-{fastest['generation']}",
        "peer_by_hand": f"trl-micro-batch-{fastest['micro-batch']}",
        "calibration": calibration,
        "contenders": records,
    }


def speed_up(records: dict[str, Any], slower: str, faster: str) -> tuple[float, float, float]:
    """Median, least and greatest over rounds of how many times longer an update of `slower` takes."""
    ratios = [
        theirs["seconds"] / mine["seconds"] for theirs, mine in zip(records[slower]["updates"], records[faster]["updates"], strict=True)
    ]
    return statistics.median(ratios), min(ratios), max(ratios)


def disagreement(records: dict[str, Any], one: str, other: str) -> float:
    """Greatest relative difference of loss and gradient norm over all updates: they start from the same weights and must stay together."""
    pairs: list[tuple[float, float]] = [
        (a[key], b[key])
        for a, b in zip(records[one]["updates"], records[other]["updates"], strict=True)
        for key in ("loss", "gradient_norm")
    ]
    return max(abs(a - b) / max(abs(b), 1e-3) for a, b in pairs)


def _try(race: Race, padding: str, model: Path, batch: Path, threads: int, folder: Path, say: Callable[[str], None]) -> dict[int, float]:
    """Seconds of one gradient by size of the peer's micro-batches, after one to warm up."""
    seconds = {}
    for size in race.tried:
        with peer(model, batch, threads, folder, size, padding) as contender:
            ignored = folder / "tried.safetensors"
            contender.ask(f"gradient {ignored}")
            seconds[size] = float(contender.ask(f"gradient {ignored}")["seconds"])
            say(f"{race.model}, trying {contender.title}: {seconds[size]:.2f} s")
    return seconds


def _compared(contender: Contender, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Its gradient against ours, which is there first; also its warm-up."""
    path = folder / f"{contender.name}.safetensors"
    answer = contender.ask(f"gradient {path}")
    differences = gradient_differences(path, folder / f"{OURS}.safetensors")
    say(f"{contender.title}: loss {answer['loss']:.9f}, gradient norm {answer['gradient_norm']:.6f}")
    worst = max(differences, key=lambda name: differences[name])
    return {
        "title": contender.title,
        "about": contender.about,
        "gradient": {**answer, "difference": differences[worst], "where": worst},
        "updates": [],
    }


def gradient_differences(found: Path, expected: Path) -> dict[str, float]:
    """For each parameter the norm of the difference of two gradients over the norm of the second.

    Raises:
        ValueError: they are not of the same parameters.
    """
    a: dict[str, torch.Tensor] = load_file(found)
    b: dict[str, torch.Tensor] = load_file(expected)
    if a.keys() != b.keys():
        raise ValueError(f"gradients of different parameters: {', '.join(sorted(a.keys() ^ b.keys()))}")
    return {name: float((a[name].double() - b[name].double()).norm() / b[name].double().norm().clamp(min=1e-30)) for name in b}
