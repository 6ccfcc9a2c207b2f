"""The races A, B and C: every contender by itself, one after the other, round after round, on the same items.

In a round each contender is started, warmed up with items of no workload, scores every workload once, and is stopped. Rounds have
different items and servers start anew, so no cache can help but one that works within a pass. The order is reversed every other round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scoring.contender import Contender, ContenderError, Item, Setup, reason
from benchmarks.scoring.peers import PADDED_NAMES
from benchmarks.scoring.progress import Progress
from benchmarks.scoring.reference import AGREEMENT
from benchmarks.scoring.store import Store
from benchmarks.scoring.workloads import Workload


@dataclass(frozen=True)
class Race:
    """What a model's races need.

    references: workload -> {place in its first round: score by the reference}.
    agreement: greatest difference from them.
    """

    model: str
    setup: Setup
    workloads: Sequence[Workload]
    warm_up: Sequence[Item]
    references: Mapping[str, Mapping[int, float]]
    agreement: float = AGREEMENT


def run_races(
    race: Race, contenders: Sequence[Contender], variants: Mapping[str, Mapping[str, str]], rounds: int, store: Store, progress: Progress
) -> None:
    """Run all rounds and store every pass as soon as it is measured, under races/MODEL/WORKLOAD/contenders/NAME.

    A contender that fails is reported with its reason and takes no further part.
    """
    failed: set[str] = set()
    for workload in race.workloads:
        for contender in contenders:
            record: dict[str, Any] = {
                "title": contender.title,
                "variant": dict(variants.get(contender.name, {})),
                "passes": [],
                "difference": None,
                "failed": None,
            }
            store.put(record, "races", race.model, workload.name, "contenders", contender.name)
    for number in range(rounds):
        for contender in contenders[:: -1 if number % 2 else 1]:
            taking_part = [workload for workload in race.workloads if takes_part(contender.name, workload.name, number, race.model)]
            if contender.name in failed or not taking_part:
                continue
            with progress.step(f"{race.model}, round {number + 1} of {rounds}: {contender.title}"):
                try:
                    contender.start(race.setup, variants.get(contender.name, {}))
                    contender.score(race.warm_up)
                    for workload in taking_part:
                        _one_pass(race, workload, contender, number, store, progress)
                except Exception as error:  # noqa: BLE001 - whatever breaks a peer is reported with it and must not end the others
                    failed.add(contender.name)
                    _give_up(race, contender, reason(error), store)
                    progress.say(f"{contender.title} failed: {reason(error)}")
                finally:
                    contender.stop()


def takes_part(contender: str, workload: str, number: int, model: str) -> bool:
    """Peers with padded batches race in every round of A with the 16M model; elsewhere no bar is about them, and one round has to do."""
    return (workload == "A" and model == "16m") or contender not in PADDED_NAMES or number == 0


def _one_pass(race: Race, workload: Workload, contender: Contender, number: int, store: Store, progress: Progress) -> None:
    items = workload.rounds[number]
    began = time.perf_counter()
    scores = contender.score(items)
    seconds = time.perf_counter() - began
    where = ("races", race.model, workload.name, "contenders", contender.name)
    record = store.get(*where)
    if number == 0:
        record["difference"] = difference(scores, race.references[workload.name], race.agreement)
    record["passes"].append({"round": number, "items": len(items), "seconds": seconds})
    store.put(record, *where)
    progress.say(f"{race.model} {workload.name} round {number + 1}: {contender.title}: {len(items) / seconds:.1f} items/s")


def difference(scores: Sequence[float], reference: Mapping[int, float], agreement: float = AGREEMENT) -> float:
    """Greatest difference from the reference where it was computed.

    Raises:
        ContenderError: it is more than `agreement`, or no number.
    """
    greatest = max(abs(scores[place] - value) for place, value in reference.items())
    if not greatest <= agreement:
        raise ContenderError(f"scores differ from one-by-one transformers by {greatest:.2g}, more than {agreement:g}")
    return greatest


def _give_up(race: Race, contender: Contender, why: str, store: Store) -> None:
    for workload in race.workloads:
        store.put(why, "races", race.model, workload.name, "contenders", contender.name, "failed")
