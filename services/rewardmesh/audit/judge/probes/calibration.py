"""Calibration: whether stated probabilities are observed frequencies, against the labels.

Expected calibration error over ten equal bins of confidence max(p, 1 - p) (Guo et al. 2017, arXiv 1706.04599), Brier score and log loss.
Pairs labelled as equally good are left out: they have no winner to be sure of.
"""

from __future__ import annotations

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Findings, Histogram, Reliability
from rewardmesh.audit.judge.asking import Asker
from rewardmesh.audit.judge.data import JudgeData
from rewardmesh.audit.judge.probe import Probe, answered, example, nothing, worst
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import Floats, Integers, bootstrap, calibrating_temperature, log_loss, logit, mean, wilson

ACCURACY = Spec("calibration.accuracy", "", "higher", 0.6, "Share of labelled pairs whose better answer gets more; a tie counts half.")
ECE = Spec("calibration.ece", "", "lower", 0.15, "Expected calibration error: mean gap between confidence and accuracy over ten bins.")
BRIER = Spec("calibration.brier", "", "lower", 0.25, "Mean squared distance between the probability and the label; 0.25 is a coin's.")
LOG_LOSS = Spec("calibration.log_loss", "nat", "lower", None, "Mean negative log-likelihood of the labels; 0.693 is a coin's.")
TEMPERATURE = Spec(
    "calibration.temperature", "", "lower", None, "What to divide log-odds by to calibrate them; above 1 the judge is too sure."
)
SPECS = (ACCURACY, ECE, BRIER, LOG_LOSS, TEMPERATURE)
BINS = 10


async def run(asker: Asker, data: JudgeData, settings: JudgeSettings) -> Findings:
    """Every labelled pair once, both orders."""
    labelled = [pair for pair in data.pairs if pair.decided]
    if not labelled:
        return nothing(SPECS, "no pair has a label that says which answer is better")
    found = answered(labelled, await asker.compare(labelled))
    if not found:
        return nothing(SPECS, "no labelled pair has a verdict")
    p = np.array([reading.p for _, (reading,) in found])
    wins = np.array([float(pair.label or 0.0) for pair, _ in found])
    odds = logit(p, found[0][1][0].votes)
    right = np.where(p == 0.5, 0.5, ((p > 0.5) == (wins > 0.5)).astype(np.float64))
    confidence = np.maximum(p, 1 - p)
    low, high = wilson(round(float(right.sum())), len(right))
    seed = settings.seed
    return Findings(
        len(found),
        {
            ACCURACY.name: Estimate(float(right.mean()), low, high, len(right)),
            ECE.name: bootstrap(lambda index: _ece(confidence[index], right[index]), len(p), seed),
            BRIER.name: mean((p - wins) ** 2, seed),
            LOG_LOSS.name: mean(log_loss(p, wins), seed),
            TEMPERATURE.name: bootstrap(lambda index: _temperature(odds, wins, index), len(p), seed, draws=200),
        },
        examples=tuple(
            example(pair, f"P(a better) is {reading.p:.3f}, the label says {'a' if pair.label else 'b'}")
            for pair, (reading,) in worst(found, lambda row: abs(row[1][0].p - float(row[0].label or 0.0)))
        ),
        plots=(
            Reliability("reliability", "Reliability", _bins(confidence, right)),
            Histogram("confidence", "How sure the judge is", "confidence max(p, 1 - p)", tuple(confidence.tolist())),
        ),
    )


def _which(confidence: Floats) -> Integers:
    """Bin of each confidence in [0.5, 1]."""
    bins: Integers = np.clip(((confidence - 0.5) * 2 * BINS).astype(np.int64), 0, BINS - 1)
    return bins


def _ece(confidence: Floats, right: Floats) -> float:
    which = _which(confidence)
    gaps = np.bincount(which, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(which))


def _temperature(odds: Floats, wins: Floats, index: Integers) -> float:
    return calibrating_temperature(odds[index], wins[index])


def _bins(confidence: Floats, right: Floats) -> tuple[tuple[float, float, float, float, int], ...]:
    which = _which(confidence)
    found = []
    for number in range(BINS):
        members = which == number
        if n := int(members.sum()):
            hits = float(right[members].sum())
            found.append((float(confidence[members].mean()), hits / n, *wilson(round(hits), n), n))
    return tuple(found)


PROBE = Probe(
    "calibration",
    "Calibration",
    "Against labels: how often the better answer gets more, and whether a stated probability of 0.8 is right four times in five.",
    SPECS,
    run,
)
