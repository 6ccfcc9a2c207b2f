"""Transitivity: whether pairwise verdicts on three answers make an order.

A triple is a cycle when a beats b, b beats c and c beats a. A judge that tosses a coin for each pair makes a cycle of one triple in four.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Bars, Example, Findings
from rewardmesh.audit.judge.asking import Asker
from rewardmesh.audit.judge.data import AuditGroup, AuditPair, JudgeData
from rewardmesh.audit.judge.probe import WORST, Probe, cut, nothing
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import Floats, Integers, bootstrap, verdicts

CYCLES = Spec("transitivity.cycles", "", "lower", 0.05, "Share of triples of answers whose verdicts form a cycle.")
RELATIVE = Spec("transitivity.relative", "", "lower", None, "The same divided by 0.25, the share of a judge that tosses coins.")
SPECS = (CYCLES, RELATIVE)
COIN = 0.25


@dataclass
class _Triples:
    """Triples of one group with all three verdicts, and those that are cycles."""

    count: int
    cycles: list[tuple[int, int, int]]
    chance: float


async def run(asker: Asker, data: JudgeData, settings: JudgeSettings) -> Findings:
    """All pairs of every group, both orders."""
    groups = [group for group in data.groups if len({answer.text for answer in group.answers}) >= 3]
    if not groups:
        return nothing(SPECS, "the data have no group of three different answers to one prompt")
    found = await _triples(asker, groups)
    counts = np.array([each.count for each in found], dtype=np.float64)
    cycles = np.array([len(each.cycles) for each in found], dtype=np.float64)
    if not counts.sum():
        return nothing(SPECS, "no triple has all three verdicts")

    def rate(index: Integers) -> float:
        total = counts[index].sum()
        return float(cycles[index].sum() / total) if total else float("nan")

    estimate = bootstrap(rate, len(groups), settings.seed)
    # Drawing groups again says nothing where no group has a cycle: then at most three in n are likely (rule of three).
    high = min(3 / counts.sum(), 1.0) if not cycles.any() else estimate.high
    estimate = Estimate(estimate.value, estimate.low, high, int(counts.sum()))
    relative = estimate.times(1 / COIN)
    expected = float(sum(each.chance for each in found) / counts.sum())
    return Findings(
        int(counts.sum()),
        {CYCLES.name: estimate, RELATIVE.name: relative},
        notes=(
            f"Verdicts drawn from the judge's own probabilities, each pair for itself, would make {expected:.1%} of the triples cycles.",
        ),
        examples=tuple(_example(group, each.cycles[0]) for group, each in zip(groups, found, strict=True) if each.cycles)[:WORST],
        plots=(
            Bars(
                "transitivity",
                "Triples that form a cycle",
                "share of triples",
                (
                    ("verdicts", estimate.value, estimate.low, estimate.high),
                    ("drawn from its probabilities", expected, None, None),
                    ("coins", COIN, None, None),
                ),
                threshold=settings.thresholds.get(CYCLES.name, CYCLES.threshold),
            ),
        ),
    )


async def _triples(asker: Asker, groups: list[AuditGroup]) -> list[_Triples]:
    pairs, places = [], []
    for number, group in enumerate(groups):
        distinct = list({answer.text: answer for answer in group.answers}.values())
        for i, j in itertools.combinations(range(len(distinct)), 2):
            pairs.append(AuditPair(f"{group.id}:{i}-{j}", group.prompt, distinct[i], distinct[j], references=group.references))
            places.append((number, i, j))
    sizes = [len({answer.text for answer in group.answers}) for group in groups]
    matrices: list[Floats] = [np.full((size, size), np.nan) for size in sizes]
    for (number, i, j), reading in zip(places, await asker.compare(pairs), strict=True):
        if reading is not None:
            matrices[number][i, j], matrices[number][j, i] = reading.p, 1 - reading.p
    return [_count(matrix) for matrix in matrices]


def _count(matrix: Floats) -> _Triples:
    result = _Triples(0, [], 0.0)
    for i, j, k in itertools.combinations(range(len(matrix)), 3):
        path = np.array([matrix[i, j], matrix[j, k], matrix[k, i]])
        if np.isnan(path).any():
            continue
        result.count += 1
        result.chance += float(path.prod() + (1 - path).prod())
        signs = verdicts(path)
        if abs(signs.sum()) == 3:
            result.cycles.append((i, j, k) if signs[0] > 0 else (k, j, i))
    return result


def _example(group: AuditGroup, cycle: tuple[int, int, int]) -> Example:
    distinct = list({answer.text: answer for answer in group.answers}.values())
    first, second, third = (distinct[index].text for index in cycle)
    texts = {"prompt": group.prompt[-1][1], "first": first, "second": second, "third": third}
    what = "the first beats the second, the second the third, and the third the first"
    return Example(group.id, what, {name: cut(text) for name, text in texts.items()})


PROBE = Probe(
    "transitivity",
    "Transitivity",
    "Verdicts on all pairs of three answers ought to make an order. The share of triples that form a cycle is compared with that of a "
    "judge that tosses coins.",
    SPECS,
    run,
)
