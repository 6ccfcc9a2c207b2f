"""Repetition: whether the same question gets the same verdict, asked as in use (label probabilities or sampled votes).

Pairs are asked again in another order of the batch and with another seed of the votes; groups are ranked with several orders of
presentation, and Kendall's W of those rankings is the judge's own figure (Repeat Ranking: Devine 2024, arXiv 2405.18952).
"""

from __future__ import annotations

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Findings, Histogram, Missing
from rewardmesh.audit.judge.asking import Asker, Reading
from rewardmesh.audit.judge.data import AuditPair, JudgeData
from rewardmesh.audit.judge.probe import Probe, answered, example, nothing, worst
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import mean, share, verdicts

FLIPS = Spec("repetition.flips", "", "lower", 0.2, "Share of pairs whose verdict is not the same in every repetition.")
SPREAD = Spec("repetition.spread", "", "lower", None, "Mean standard deviation of a pair's probability over repetitions.")
KENDALL = Spec(
    "repetition.kendall_w", "", "higher", 0.6, "Kendall's W of repeated rankings, mean over groups; 1 is the same order every time."
)
SPECS = (FLIPS, SPREAD, KENDALL)


async def run(asker: Asker, data: JudgeData, settings: JudgeSettings) -> Findings:
    """The same pairs `repeats` times; the groups in one call with as many repeats."""
    pairs = data.pairs[: settings.repetition_pairs]
    rounds = [await _again(asker, pairs, settings, repeat) for repeat in range(settings.repeats)]
    found = answered(pairs, *rounds)
    kendall, note = await _kendall(asker, data, settings)
    if not found:
        return Findings(
            0, {**nothing((FLIPS, SPREAD), "no pair has a verdict in every repetition").estimates, KENDALL.name: kendall}, notes=note
        )
    p = np.array([[reading.p for reading in readings] for _, readings in found])
    flipped = (verdicts(p) != verdicts(p)[:, :1]).any(axis=1)
    spread = p.std(axis=1)
    how = f"{settings.votes} votes an order" if settings.votes else "label probabilities, which a cache may answer"
    return Findings(
        len(found),
        {FLIPS.name: share(flipped), SPREAD.name: mean(spread, settings.seed), KENDALL.name: kendall},
        notes=(f"Pairs were asked {settings.repeats} times: {how}.", *note),
        examples=tuple(
            example(pair, "P(a better): " + ", ".join(f"{value:.3f}" for value in values))
            for (pair, _), values, how_far in worst(list(zip(found, p, spread, strict=True)), lambda row: float(row[2]))
            if how_far > 0
        ),
        # Where every repetition is exact there is nothing to see.
        plots=(Histogram("repetition", "Spread over repetitions", "standard deviation of P(a better)", tuple(spread.tolist())),)
        if spread.any()
        else (),
    )


async def _again(asker: Asker, pairs: tuple[AuditPair, ...], settings: JudgeSettings, repeat: int) -> list[Reading | None]:
    """One repetition, asked in an order of its own: other neighbours in the batch must not change a verdict."""
    order = np.random.default_rng(settings.seed + repeat).permutation(len(pairs)) if repeat else np.arange(len(pairs))
    found = await asker.compare([pairs[index] for index in order], seed=settings.seed + repeat)
    readings: list[Reading | None] = [None] * len(pairs)
    for index, reading in zip(order, found, strict=True):
        readings[index] = reading
    return readings


async def _kendall(asker: Asker, data: JudgeData, settings: JudgeSettings) -> tuple[Estimate | Missing, tuple[str, ...]]:
    if not data.groups:
        return Missing("the data have no group of three or more answers"), ()
    rankings = await asker.rank(data.groups, settings.repeats)
    note: tuple[str, ...] = ()
    if isinstance(rankings, str):
        note = (f"The judge does not repeat rankings ({rankings}): Kendall's W is that of the two orders of presentation.",)
        rankings = await asker.rank(data.groups, 1)
    if isinstance(rankings, str):
        return Missing(f"the judge does not rank: {rankings}"), ()
    if not rankings:
        return Missing("no group has a ranking"), note
    return mean([ranking.message.ranking.kendall_w for ranking in rankings], settings.seed), note


PROBE = Probe(
    "repetition",
    "Repetition",
    "The same pairs are asked again in batches of another composition and with other seeds; groups are ranked with several orders of "
    "presentation.",
    SPECS,
    run,
)
