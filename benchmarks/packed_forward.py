"""What the tree-packed forward gains: items scored a second by one reward model, served and bare, against padded batches.

    python -m benchmarks.packed_forward --data FOLDER_WITH_GSM8K

Contenders, on the same weights (Qwen2 shape, 15.7M parameters, random), fp32, the same threads, the same items in order of arrival (the
four answers to a question beside each other, which is the kindest order to padding):

- served: `Client.score` to a RewardService in another process, gRPC on loopback; includes building messages and tokenising;
- bare: the engine's packed forward on token ids, batches of the server's token budget;
- padded 8, padded 32: transformers with padding to the longest of a batch, its own attention, on token ids;
- one by one: transformers, one sequence a call, on token ids.

Every contender runs once in a round, in an order that is reversed every other round; figures are medians over rounds. All scores must
agree with the one-by-one ones to 1e-4, else the benchmark fails. The floor is what the matrix products cost that sharing leaves, at the
throughput that torch reaches here on one large product.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import uvloop

from benchmarks._items import ANSWERS, Question, Shape, read_questions, write_model
from benchmarks._report import RESULTS, Bar, Table, bar_figure, describe_machine, write_results
from rewardmesh.client import Client, message, sample
from rewardmesh.engine.forward import classification_scores
from rewardmesh.engine.loading import LoadedModel, load_model, read_model
from rewardmesh.engine.packing import Plan, make_plan
from rewardmesh.engine.text import dialogue_ids
from rewardmesh.v1 import common_pb2 as pb

AGREEMENT = 1e-4
BUDGET_TOKENS = 16384
TITLES = {
    "served": "packed, served over gRPC",
    "bare": "packed, bare engine",
    "padded_8": "padded batches of 8",
    "padded_32": "padded batches of 32",
    "one_by_one": "one by one",
}

Ids = list[int]
Contender = Callable[[], list[float]]


@dataclass(frozen=True)
class Settings:
    """How much is measured. `questions` have four answers each."""

    data: Path | None = None
    questions: int = 64
    rounds: int = 3
    threads: int = 2
    shape: Shape = field(default_factory=Shape)


class DisagreementError(Exception):
    """Two ways to score the same items gave different scores."""


def measure(settings: Settings, out: Path) -> dict[str, Any]:
    """Run everything and write the report into `out`.

    Raises:
        DisagreementError: scores differ by more than 1e-4.
    """
    torch.set_num_threads(settings.threads)
    machine = describe_machine(settings.threads)
    questions, source = read_questions(settings.data, settings.questions)
    samples = _samples(questions)
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(Path(folder), questions, settings.shape)
        packed = load_model(folder, "classification", name="benchmark", version=1)
        if not packed.packed:
            raise RuntimeError(f"the model cannot be packed: {packed.reason}")
        plain, _ = read_model(folder, "classification")
        sequences = [dialogue_ids(packed.tokenizer, item.prompt, item.completion.text) for item in samples]
        batches = cut_by_budget(sequences)
        with _served(folder, settings.threads) as address, Client(address, timeout_s=None) as client:
            contenders: dict[str, Contender] = {
                "served": lambda: _score_served(client, samples),
                "bare": lambda: _score_packed(packed, batches),
                "padded_8": lambda: _score_padded(plain, sequences, 8),
                "padded_32": lambda: _score_padded(plain, sequences, 32),
                "one_by_one": lambda: _score_padded(plain, sequences, 1),
            }
            scores = contenders["one_by_one"]()
            differences = _differences(contenders, scores)  # also the warm-up
            seconds = _race(contenders, settings.rounds)
    plans = [make_plan(batch) for batch in batches]
    flops = needed_flops(plans, settings.shape)
    throughput = matmul_flops_per_s()
    rates = {name: len(samples) / statistics.median(taken) for name, taken in seconds.items()}
    floor = len(samples) / (flops / throughput)
    best_padded = max(("padded_8", "padded_32"), key=lambda name: rates[name])
    results: dict[str, Any] = {
        "machine": machine,
        "bars": [
            Bar.at_least("served packed ÷ best padded", rates["served"] / rates[best_padded], "×", 1.5),
            Bar.at_least("served ÷ bare", rates["served"] / rates["bare"], "", 0.8),
        ],
        "setting": {
            "items": len(samples),
            "source": source,
            "model": {"architecture": "qwen2", "parameters": parameters, **asdict(settings.shape)},
            "dtype": "float32",
            "rounds": settings.rounds,
            "budget_tokens": BUDGET_TOKENS,
            "tokens_read": sum(plan.tokens_read for plan in plans),
            "tokens_computed": sum(len(plan.token_ids) for plan in plans),
            "tokens_padded_8": padded_tokens(sequences, 8),
            "tokens_padded_32": padded_tokens(sequences, 32),
        },
        "items_per_s": rates,
        "round_seconds": seconds,
        "scores": {"mean": statistics.fmean(scores), "standard_deviation": statistics.pstdev(scores)},
        "greatest_difference": differences,
        "floor": {
            "matmul_gflop_per_s": throughput / 1e9,
            "needed_gflop": flops / 1e9,
            "items_per_s": floor,
            "bare_share": rates["bare"] / floor,
        },
    }
    _write(out, results)
    return results


def cut_by_budget(sequences: Sequence[Ids]) -> list[list[Ids]]:
    """Batches of whole questions whose computed tokens stay within the server's budget (a single larger question is a batch)."""
    batches: list[list[Ids]] = []
    used = BUDGET_TOKENS
    for start in range(0, len(sequences), ANSWERS):
        group = list(sequences[start : start + ANSWERS])
        cost = len(make_plan(group).token_ids)
        if used + cost > BUDGET_TOKENS:
            batches.append([])
            used = 0
        batches[-1] += group
        used += cost
    return batches


def padded_tokens(sequences: Sequence[Ids], size: int) -> int:
    """Tokens computed in padded batches of `size`."""
    return sum(len(batch) * max(map(len, batch)) for batch in _slices(sequences, size))


def needed_flops(plans: Sequence[Plan], shape: Shape) -> float:
    """Floating-point operations of the matrix products that remain after sharing: projections, feed-forward, attention."""
    head = shape.width // shape.heads
    projections = shape.width * (2 * shape.width + 2 * shape.key_heads * head)
    per_token = 2.0 * shape.layers * (projections + 3 * shape.width * shape.feed_forward)
    # A token at position p (from 0) attends to p + 1 keys: a product with the keys and one with the values, over all heads.
    attended = sum(int((plan.position_ids + 1).sum()) for plan in plans)
    return sum(len(plan.token_ids) for plan in plans) * per_token + 4.0 * shape.layers * shape.width * attended


def matmul_flops_per_s(size: int = 2048, repeats: int = 7) -> float:
    """Throughput of one large fp32 product with torch's present threads, median of `repeats`."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, b)
        taken.append(time.perf_counter() - began)
    return 2.0 * size**3 / statistics.median(taken)


def _differences(contenders: Mapping[str, Contender], expected: Sequence[float]) -> dict[str, float]:
    """Greatest difference of each contender's scores from the expected ones; DisagreementError when one is too great."""
    differences = {}
    for name, run in contenders.items():
        differences[name] = max(abs(a - b) for a, b in zip(run(), expected, strict=True))
        if not differences[name] <= AGREEMENT:
            raise DisagreementError(f"{name}: scores differ from one-by-one scores by {differences[name]:.2g}, more than {AGREEMENT:g}")
    return differences


def _race(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender by round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - began)
            print(f"round {number + 1}: {TITLES[name]}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return seconds


def _score_served(client: Client, samples: Sequence[pb.Sample]) -> list[float]:
    values = []
    for score in client.score(samples):
        if score.value is None:
            raise RuntimeError(f"{score.sample_id} has no score: {score.absence}")
        values.append(score.value)
    return values


def _score_packed(model: LoadedModel, batches: Sequence[Sequence[Ids]]) -> list[float]:
    values: list[float] = []
    with torch.inference_mode():
        for batch in batches:
            scores, _ = classification_scores(model.model, batch, packed=True)
            values += scores[:, 0].tolist()
    return values


def _score_padded(model: Any, sequences: Sequence[Ids], size: int) -> list[float]:
    values: list[float] = []
    pad = model.config.pad_token_id
    with torch.inference_mode():
        for batch in _slices(sequences, size):
            longest = max(map(len, batch))
            ids = torch.tensor([[*sequence, *[pad] * (longest - len(sequence))] for sequence in batch])
            mask = torch.tensor([[1] * len(sequence) + [0] * (longest - len(sequence)) for sequence in batch])
            values += model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].tolist()
    return values


def _slices(sequences: Sequence[Ids], size: int) -> list[Sequence[Ids]]:
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def _samples(questions: Sequence[Question]) -> list[pb.Sample]:
    return [
        sample(f"{number}/{place}", [message("user", question.text)], answer, group_id=str(number))
        for number, question in enumerate(questions)
        for place, answer in enumerate(question.answers)
    ]


@contextmanager
def _served(model: str, threads: int) -> Iterator[str]:
    """Address of a RewardService in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(model, threads, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()  # EOFError when the server could not start
        here.send(None)
        process.join(30)
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _serve(model: str, threads: int, pipe: Connection) -> None:
    from rewardmesh.reward import RewardConfig, create_server
    from rewardmesh.serving.logs import configure_logging

    configure_logging("reward", level="warning")

    async def main() -> None:
        fields: dict[str, Any] = {"model": model, "threads": threads, "budget_tokens": BUDGET_TOKENS, "drain_seconds": 5.0}
        server = await create_server(RewardConfig(**fields))
        await server.start()
        pipe.send(server.address)
        try:
            await asyncio.to_thread(pipe.recv)
        finally:
            await server.stop()

    uvloop.run(main())


def _write(out: Path, results: Mapping[str, Any]) -> None:
    rates, rounds, floor, setting = (results[name] for name in ("items_per_s", "round_seconds", "floor", "setting"))
    rows = []
    for name, title in TITLES.items():
        least, most = setting["items"] / max(rounds[name]), setting["items"] / min(rounds[name])
        share = f"{rates[name] / floor['items_per_s']:.0%}"
        rows.append([title, f"{rates[name]:.1f}", f"{least:.1f} to {most:.1f}", share, f"{results['greatest_difference'][name]:.1e}"])
    columns = ("way to score", "items/s (median)", "rounds", "of the floor", "greatest difference from one by one")
    notes = (
        f"{setting['items']} items ({setting['source']}), a Qwen2-shaped reward model of {setting['model']['parameters'] / 1e6:.1f}M "
        f"parameters with random weights, fp32, {setting['rounds']} rounds. {setting['tokens_read']} tokens are read, "
        f"{setting['tokens_computed']} computed after sharing, {setting['tokens_padded_8']} in padded batches of 8, "
        f"{setting['tokens_padded_32']} of 32. The matrix products that remain after sharing are {floor['needed_gflop']:.0f} GFLOP; at the "
        f"{floor['matmul_gflop_per_s']:.0f} GFLOP/s measured on one large product that is a floor of {floor['items_per_s']:.1f} items/s. "
        f"Served is {rates['served'] / max(rates['padded_8'], rates['padded_32']):.2f} times the better padded figure and "
        f"{rates['served'] / rates['one_by_one']:.2f} times one by one. "
        f"Scores spread by {results['scores']['standard_deviation']:.2g} (standard deviation). "
        "Only the served figure includes building messages and tokenising; the others start from token ids."
    )
    spreads = [(setting["items"] / max(taken), setting["items"] / min(taken)) for taken in (rounds[name] for name in TITLES)]
    figure = bar_figure(list(TITLES.values()), [rates[name] for name in TITLES], spreads, "items a second")
    figure.axes[0].axvline(floor["items_per_s"], color="#a04040", linestyle="--", linewidth=1)
    figure.axes[0].set_xlim(0, max(figure.axes[0].get_xlim()[1], 1.05 * floor["items_per_s"]))
    figure.axes[0].set_title("dashed: floor set by measured matrix throughput", fontsize=9)
    path = write_results(out, "packed_forward", results, "Packed forward against padded batches", notes, Table(columns, rows), figure)
    print(path.read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packed_forward", description=(__doc__ or "").partition("\n")[0])
    environment = os.environ.get("REWARDMESH_DATA")
    parser.add_argument(
        "--data", type=Path, default=Path(environment) if environment else None, help="GSM8K model answers, or their folder"
    )
    parser.add_argument("--questions", type=int, default=64, help="questions, of four answers each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow layers, to try the benchmark itself")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    shape = Shape(width=32, layers=2, heads=4, key_heads=2, feed_forward=64) if given.tiny else Shape()
    try:
        measure(Settings(given.data, given.questions, given.rounds, given.threads, shape), given.out)
    except DisagreementError as error:
        sys.exit(f"packed_forward: {error}")


if __name__ == "__main__":
    main()
