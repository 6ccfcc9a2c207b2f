"""What verdicts of the demo's judge cost, and how well ways to rank find the true quality of answers."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.judges.serving import judge
from rewardmesh.client import AsyncClient, rank_group
from rewardmesh.demo.answers import QUALITY, Style, write
from rewardmesh.demo.files import JUDGE_TEMPLATE
from rewardmesh.demo.problems import generate
from rewardmesh.v1 import judge_service_pb2 as api

GROUPS = 40
STYLES: tuple[Style, ...] = ("full", "full", "skipped", "skipped", "terse", "terse", "slip", "unrelated")
COST_PAIRS = 200
VOTES = 4
METHODS: tuple[tuple[str, int, int], ...] = (
    ("all pairs, mean wins", api.RANK_METHOD_ALL_PAIRS, api.RANK_AGGREGATION_MEAN_WINS),
    ("all pairs, Borda", api.RANK_METHOD_ALL_PAIRS, api.RANK_AGGREGATION_BORDA),
    ("all pairs, Bradley-Terry", api.RANK_METHOD_ALL_PAIRS, api.RANK_AGGREGATION_BRADLEY_TERRY),
    ("3 pairs an answer, mean wins", api.RANK_METHOD_SPARSE, api.RANK_AGGREGATION_MEAN_WINS),
    ("3 pairs an answer, Bradley-Terry", api.RANK_METHOD_SPARSE, api.RANK_AGGREGATION_BRADLEY_TERRY),
)
PAIRS_PER_ANSWER = 3


async def measure(model: Path, template: Path) -> dict[str, Any]:
    """Rankings against true quality by method, and verdicts a second by how they are read."""
    rng = random.Random(5)
    groups, qualities = [], []
    for number, problem in enumerate(generate(GROUPS, 51, "heldout")):
        # A problem of one step has no skipped working; what was written says which quality it is.
        answers = [write(problem, style, rng) for style in rng.sample(STYLES, len(STYLES))]
        groups.append(rank_group(str(number), problem.question, [each.text for each in answers]))
        qualities.append([QUALITY[each.style] for each in answers])
    async with judge(model, template, default_template=JUDGE_TEMPLATE) as client:
        rankings = {name: await _ranked(client, groups, qualities, method, how) for name, method, how in METHODS}
        return {"rankings": rankings, "cost": await _cost(client, groups)}


async def _ranked(client: AsyncClient, groups: Sequence[api.RankGroup], qualities: Sequence[Sequence[int]], method: int, how: int) -> Any:
    request = api.RankRequest(groups=groups, method=method, aggregation=how, seed=1)  # type: ignore[arg-type]
    if method == api.RANK_METHOD_SPARSE:
        request.pairs_per_answer = PAIRS_PER_ANSWER
    started = time.perf_counter()
    reply = await client.judge.Rank(request)
    seconds = time.perf_counter() - started
    found = [outcome.ranking for outcome in reply.outcomes]
    assert all(outcome.HasField("ranking") for outcome in reply.outcomes), reply.outcomes[0].absence
    pairs = [(list(ranking.scores), list(quality)) for ranking, quality in zip(found, qualities, strict=True)]
    return {
        "tau": fmean(kendall_tau(scores, quality) for scores, quality in pairs),
        "tau_of_right": fmean(kendall_tau(*_without_mistakes(scores, quality)) for scores, quality in pairs),
        "verdicts": sum(ranking.verdicts for ranking in found) / len(found),
        "seconds": seconds,
        "kendall_w": fmean(ranking.kendall_w for ranking in found),
        "cycle_rate": fmean(ranking.cycle_rate for ranking in found),
    }


async def _cost(client: AsyncClient, groups: Sequence[api.RankGroup]) -> dict[str, Any]:
    pairs = [
        api.Pair(id=f"{group.id}-{n}", prompt=group.prompt, a=group.completions[n], b=group.completions[n + 1])
        for group in groups
        for n in range(len(group.completions) - 1)
    ][:COST_PAIRS]
    asked = {
        "one order": api.CompareRequest(orders=api.COMPARE_ORDERS_AS_GIVEN),
        "both orders": api.CompareRequest(orders=api.COMPARE_ORDERS_BOTH),
        f"both orders, {VOTES} votes each": api.CompareRequest(orders=api.COMPARE_ORDERS_BOTH, votes=VOTES, seed=1),
    }
    found = {}
    for name, like in asked.items():
        request = api.CompareRequest(pairs=pairs)
        request.MergeFrom(like)
        started = time.perf_counter()
        reply = await client.judge.Compare(request)
        seconds = time.perf_counter() - started
        assert all(outcome.HasField("preference") for outcome in reply.outcomes), reply.outcomes[0].absence
        provenances = [outcome.provenance for outcome in reply.outcomes]
        found[name] = {
            "pairs_per_second": len(pairs) / seconds,
            "tokens_read": fmean(each.tokens_read for each in provenances),
            "tokens_computed": fmean(each.tokens_computed for each in provenances),
            "tokens_written": fmean(each.tokens_written for each in provenances),
        }
    return found


def _without_mistakes(scores: Sequence[float], quality: Sequence[int]) -> tuple[list[float], list[float]]:
    """Of the answers that have none: how much working they show is what the demo's judge was taught to see."""
    kept = [(score, float(level)) for score, level in zip(scores, quality, strict=True) if level]
    return [score for score, _ in kept], [level for _, level in kept]


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b of two lists of scores, in [-1, 1]; 0 when one of them tells nothing apart."""
    a, b = (np.sign(np.subtract.outer(np.asarray(each, float), np.asarray(each, float))) for each in (one, other))
    norm = float(np.sqrt((a != 0).sum() * (b != 0).sum()))
    return float((a * b).sum()) / norm if norm else 0.0
