"""Position bias: how much the judge favours the answer that is shown first, one order at a time, and what averaging both orders leaves.

With an additive bias the log-odds for the first answer are s + beta when a comes first and -s + beta when b does, so their mean is beta
and the quality s cancels. The share of flips is the inconsistency of Wang et al. (2023, arXiv 2305.17926).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Findings, Histogram, Missing, Points
from rewardmesh.audit.judge.asking import Asker
from rewardmesh.audit.judge.data import AuditPair, JudgeData
from rewardmesh.audit.judge.probe import Probe, answered, example, nothing, worst
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import logit, mean, share, verdicts

FIRST = Spec("position.first", "", "zero", 0.1, "Mean probability of the answer shown first, minus 0.5, one order at a time.")
LOGIT = Spec("position.logit", "logit", "zero", 0.5, "Additive size of the bias towards the first answer, in log-odds.")
FLIPS = Spec(
    "position.flips",
    "",
    "lower",
    0.25,
    "Share of pairs whose verdict depends on which answer is shown first; pairs labelled as equally good are left out.",
)
RESIDUAL = Spec("position.residual", "", "lower", 1e-3, "Largest |P(a) + P(b) - 1| over pairs when both orders are averaged.")
SPECS = (FIRST, LOGIT, FLIPS, RESIDUAL)


async def run(asker: Asker, data: JudgeData, settings: JudgeSettings) -> Findings:
    """Every pair as given and turned round, in one order and in both."""
    turned = [turn(pair) for pair in data.pairs]
    found = answered(
        data.pairs,
        await asker.compare(data.pairs, both_orders=False),
        await asker.compare(turned, both_orders=False),
        await asker.compare(data.pairs),
        await asker.compare(turned),
    )
    if not found:
        return nothing(SPECS, "no pair has a verdict in both orders")
    a_first = np.array([readings[0].p for _, readings in found])
    b_first = np.array([readings[1].p for _, readings in found])
    votes = found[0][1][0].votes
    bias = (logit(a_first, votes) + logit(b_first, votes)) / 2
    flipped = verdicts(a_first) != -verdicts(b_first)
    # Between equally good answers either verdict will do.
    told = np.array([pair.label != 0.5 for pair, _ in found])
    left = np.array([abs(readings[2].p + readings[3].p - 1) for _, readings in found])
    strength = mean(bias, settings.seed)
    rows = list(zip(found, a_first, b_first, strict=True))
    return Findings(
        len(found),
        {
            FIRST.name: mean((a_first + b_first) / 2 - 0.5, settings.seed),
            LOGIT.name: strength,
            FLIPS.name: share(flipped[told]) if told.any() else Missing("all pairs are labelled as equally good"),
            RESIDUAL.name: Estimate(float(left.max()), None, None, len(found)),
        },
        examples=tuple(
            example(pair, f"P(a better) is {p_a:.3f} when a is shown first and {1 - p_b:.3f} when b is")
            for (pair, _), p_a, p_b in worst(rows, lambda row: abs(row[1] + row[2] - 1))
        ),
        plots=(
            Points(
                "position",
                "One order against the other",
                "P(a better), a shown first",
                "P(a better), b shown first",
                {"pair": tuple(zip(a_first.tolist(), (1 - b_first).tolist(), strict=True))},
                diagonal=True,
            ),
            Histogram(
                "position-logit",
                "Bias towards the first answer, pair by pair",
                "additive bias (logit)",
                tuple(bias.tolist()),
                {"no bias": 0.0, f"mean {strength.value:+.2f}": strength.value},
            ),
        ),
    )


def turn(pair: AuditPair) -> AuditPair:
    """The same pair with its answers exchanged."""
    return replace(pair, a=pair.b, b=pair.a, label=None if pair.label is None else 1 - pair.label)


PROBE = Probe(
    "position",
    "Position bias",
    "Each pair is shown in both orders, one at a time. A judge without position bias gives the same answer the same probability wherever "
    "it stands; one with an additive bias is cured by averaging both orders, as the service does unless told otherwise.",
    SPECS,
    run,
)
