"""Samples a second that one StreamVerify stream checks, with a verifier that costs next to nothing: what the service itself costs.

    python -m benchmarks.verifier_stream --data FOLDER_WITH_GSM8K

The server is one process, the client another, gRPC on loopback between them. Every way to call checks the same samples in every round, in
an order that is reversed every other round; figures are medians over rounds. Every verdict of every round is compared with what plain
Python says, and must come exactly once, else the benchmark fails. The processor seconds of both processes say which of them limits.

- stream: `AsyncClient`, samples built beforehand, 256 a message; every verdict is read into a result object;
- stream, building: the same, but the samples are built from strings while the stream runs;
- blocking stream: `Client` instead of `AsyncClient`;
- stream, one a message: what a message costs;
- batches: `AsyncClient.verify`, calls of 256 samples, four at a time;
- math: the stream with the math verifier, whose checks run in killable worker processes, one a core.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from benchmarks._items import Question, read_questions
from benchmarks._report import RESULTS, Bar, Table, bar_figure, describe_machine, write_results
from rewardmesh.client import AsyncClient, Client, sample
from rewardmesh.client._verify_stream import stream_verify, stream_verify_async
from rewardmesh.client.results import Verdict
from rewardmesh.v1 import common_pb2 as pb

CHUNK_ITEMS = 256
QUESTIONS = 256
SLOW_SHARE = 10
"""Ways that cost much more an item get one of so many samples."""
TITLES = {
    "stream": "stream",
    "building": "stream, building",
    "blocking": "blocking stream",
    "single": "stream, one a message",
    "batches": "batches",
    "math": "stream, math in workers",
}


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    data: Path | None = None
    items: int = 50_000
    rounds: int = 3


@dataclass(frozen=True)
class Item:
    """A sample as strings, and whether it is right."""

    id: str
    question: str
    answer: str
    reference: str
    right: bool

    def build(self) -> pb.Sample:
        """The message."""
        return sample(self.id, self.question, self.answer, references=[self.reference])


@dataclass(frozen=True)
class Seconds:
    """What a round took: on the clock, and of each process's processor time."""

    wall: float
    client: float
    server: float


class DisagreementError(Exception):
    """A verdict is wrong, missing, or came twice."""


def measure(settings: Settings, out: Path) -> dict[str, Any]:
    """Run everything and write the report into `out`; returns it (`bars`, `items_per_s` and `microseconds` by way to call).

    Raises:
        DisagreementError: a verdict is not what it should be.
    """
    machine = describe_machine(1)
    questions, source = read_questions(settings.data, QUESTIONS)
    items, marker = _items(questions, settings.items)
    with _served() as (address, server_seconds):
        rounds = uvloop.run(_race(address, items, marker, settings.rounds, server_seconds))
    counts = {name: len(_share(name, items)) for name in TITLES}
    rates = {name: counts[name] / statistics.median(one.wall for one in taken) for name, taken in rounds.items()}
    results: dict[str, Any] = {
        "machine": machine,
        "bars": [
            Bar.at_least("exact-match through one stream", rates["stream"], "items/s", 20_000),
            Bar.at_least("exact-match through one stream, beyond", rates["stream"], "items/s", 50_000),
            Bar.at_least("exact-match through one stream, building included", rates["building"], "items/s", 20_000),
        ],
        "setting": {
            "source": source,
            "items": counts,
            "rounds": settings.rounds,
            "items_a_message": CHUNK_ITEMS,
            "characters": {
                "question": statistics.fmean(len(item.question) for item in items),
                "answer": statistics.fmean(len(item.answer) for item in items),
            },
            "options": {"answer_marker": marker},
            "share_right": statistics.fmean(item.right for item in items),
        },
        "items_per_s": rates,
        "round_seconds": {name: [one.wall for one in taken] for name, taken in rounds.items()},
        "microseconds": {
            name: {
                "client": 1e6 * statistics.median(one.client for one in taken) / counts[name],
                "server": 1e6 * statistics.median(one.server for one in taken) / counts[name],
            }
            for name, taken in rounds.items()
        },
    }
    _write(out, results)
    return results


def _items(questions: Sequence[Question], count: int) -> tuple[list[Item], str]:
    """`count` samples with ids of their own, and the marker of their answers.

    The reference is what the first answer to the question states; every third sample has the next question's instead.
    """
    marker = "####" if all("####" in answer for question in questions for answer in question.answers) else "A:"
    stated = {question: [answer for answer in question.answers if marker in answer] for question in questions}
    usable = [question for question in questions if stated[question]]
    references = [stated[question][0].rpartition(marker)[2].strip() for question in usable]
    pairs = [(number, answer) for number, question in enumerate(usable) for answer in stated[question]]
    items = []
    for number in range(count):
        place, answer = pairs[number % len(pairs)]
        reference = references[(place + (number % 3 == 0)) % len(usable)]
        items.append(Item(f"sample-{number}", usable[place].text, answer, reference, answer.rpartition(marker)[2].strip() == reference))
    return items, marker


def _share(name: str, items: list[Item]) -> list[Item]:
    return items[: -(-len(items) // SLOW_SHARE)] if name in {"single", "math"} else items


async def _race(address: str, items: list[Item], marker: str, rounds: int, server_seconds: Callable[[], float]) -> dict[str, list[Seconds]]:
    """The seconds of each way to call, by round; one more round before is the warm-up."""
    samples = [item.build() for item in items]
    options = {"answer_marker": marker}
    few = len(_share("single", items))
    seconds: dict[str, list[Seconds]] = {name: [] for name in TITLES}
    async with AsyncClient(address, timeout_s=None, chunk_items=CHUNK_ITEMS) as client:

        async def stream(samples: Iterable[pb.Sample], verifier: str = "exact-match", chunk_items: int = CHUNK_ITEMS) -> list[Verdict]:
            given = options if verifier == "exact-match" else None
            return [one async for one in stream_verify_async(client, samples, verifier, options=given, chunk_items=chunk_items)]

        def blocking() -> list[Verdict]:
            with Client(address, timeout_s=None) as other:
                return list(stream_verify(other, samples, "exact-match", options=options, chunk_items=CHUNK_ITEMS))

        ways: dict[str, Callable[[], Awaitable[list[Verdict]]]] = {
            "stream": lambda: stream(samples),
            "building": lambda: stream(item.build() for item in items),
            "blocking": lambda: asyncio.to_thread(blocking),
            "single": lambda: stream(samples[:few], chunk_items=1),
            "batches": lambda: client.verify(samples, "exact-match", options=options),
            "math": lambda: stream(samples[:few], "math"),
        }
        for number in range(-1, rounds):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                before, began = (time.process_time(), server_seconds()), time.perf_counter()
                verdicts = await ways[name]()
                wall = time.perf_counter() - began
                _compare(name, _share(name, items), verdicts)
                if number >= 0:
                    seconds[name].append(Seconds(wall, time.process_time() - before[0], server_seconds() - before[1]))
                    print(f"round {number + 1}: {TITLES[name]}: {len(verdicts) / wall:.0f} items/s", file=sys.stderr)
    return seconds


def _compare(name: str, items: Sequence[Item], verdicts: Sequence[Verdict]) -> None:
    found = {verdict.sample_id: verdict for verdict in verdicts}
    if len(found) != len(verdicts) or len(found) != len(items):
        raise DisagreementError(f"{TITLES[name]}: {len(verdicts)} verdicts on {len(found)} samples for {len(items)} samples")
    for item in items:
        verdict = found[item.id]
        # The math verifier also takes 18.0 for 18: it may pass what is no exact match; and a reference may be no mathematics.
        if name == "math" and (verdict.absence is not None or verdict.value == 1):
            continue
        if verdict.value != item.right:
            raise DisagreementError(f"{TITLES[name]}: {item.id} has {verdict.value} ({verdict.absence}), expected {item.right:d}")


@contextmanager
def _served() -> Iterator[tuple[str, Callable[[], float]]]:
    """Address of a VerifierService in a process of its own, and what tells its processor seconds (its workers' not included)."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()
    there.close()

    def seconds() -> float:
        here.send("seconds")
        return float(here.recv())

    try:
        yield here.recv(), seconds  # EOFError when the server could not start
        here.send(None)
        process.join(30)
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _serve(pipe: Connection) -> None:
    from rewardmesh.serving.logs import configure_logging
    from rewardmesh.verifier import VerifierConfig, create_server

    configure_logging("verifier", level="warning")

    async def main() -> None:
        fields: dict[str, Any] = {"drain_seconds": 5.0}
        server = await create_server(VerifierConfig(**fields))
        await server.start()
        pipe.send(server.address)
        try:
            while await asyncio.to_thread(pipe.recv) is not None:
                pipe.send(time.process_time())
        except EOFError:
            pass  # the parent has gone
        finally:
            await server.stop()

    uvloop.run(main())


def _write(out: Path, results: dict[str, Any]) -> None:
    setting, rates, microseconds = results["setting"], results["items_per_s"], results["microseconds"]
    rows, spreads = [], []
    for name, title in TITLES.items():
        taken = results["round_seconds"][name]
        least, most = setting["items"][name] / max(taken), setting["items"][name] / min(taken)
        spreads.append((least, most))
        costs = microseconds[name]
        rows.append([title, f"{rates[name]:.0f}", f"{least:.0f} to {most:.0f}", f"{costs['client']:.1f}", f"{costs['server']:.1f}"])
    characters = setting["characters"]
    notes = (
        f"{setting['items']['stream']} samples ({setting['source']}; on average {characters['question']:.0f} characters of question and "
        f"{characters['answer']:.0f} of answer; {setting['items']['math']} of them for math and for one a message), {setting['rounds']} "
        f"rounds, {setting['items_a_message']} samples a message. The verifier is exact-match with the option answer_marker; "
        f"{setting['share_right']:.0%} of the answers pass. Every verdict was compared with what it should be. Client and server are one "
        "process each; the math verifier's checks run in further processes, whose time is not in the last column."
    )
    columns = ("way to call", "items/s (median)", "rounds", "client, µs of processor an item", "server, µs of processor an item")
    figure = bar_figure(list(TITLES.values()), [rates[name] for name in TITLES], spreads, "items a second")
    path = write_results(out, "verifier_stream", results, "A trivial verifier through one stream", notes, Table(columns, rows), figure)
    print(path.read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifier_stream", description=(__doc__ or "").partition("\n")[0])
    environment = os.environ.get("REWARDMESH_DATA")
    parser.add_argument(
        "--data", type=Path, default=Path(environment) if environment else None, help="GSM8K model answers, or their folder"
    )
    parser.add_argument("--items", type=int, default=Settings.items, help="samples a round")
    parser.add_argument("--rounds", type=int, default=Settings.rounds)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    try:
        measure(Settings(given.data, given.items, given.rounds), given.out)
    except DisagreementError as error:
        sys.exit(f"verifier_stream: {error}")


if __name__ == "__main__":
    main()
