"""Speed: the latency of one answer a call, and how many answers a second go through a stream. As measured here, now."""

from __future__ import annotations

import random
import time

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Findings, Histogram
from rewardmesh.audit.statistics import bootstrap
from rewardmesh.audit.verifier.asking import Checker
from rewardmesh.audit.verifier.check import Check
from rewardmesh.audit.verifier.data import VerifierData

MEDIAN = Spec("speed.p50", "ms", "lower", None, "Median time of a call with one answer.")
NINETY = Spec("speed.p90", "ms", "lower", None, "90th percentile of it.")
NINETY_NINE = Spec("speed.p99", "ms", "lower", None, "99th percentile of it.")
THROUGHPUT = Spec(
    "speed.throughput", "answers/s", "higher", None, "Answers a second, all of them in one stream (in calls, where groups are judged)."
)
SPECS = (MEDIAN, NINETY, NINETY_NINE, THROUGHPUT)


async def run(checker: Checker, data: VerifierData) -> Findings:
    """Some answers one by one, then all together."""
    samples = [answer.to_sample(str(number)) for number, answer in enumerate(data.answers)]
    timed = random.Random(checker.settings.seed).sample(samples, min(checker.settings.timed, len(samples)))
    await checker.verify(timed[:1])
    took = []
    for sample in timed:
        began = time.perf_counter()
        await checker.verify([sample])
        took.append(1e3 * (time.perf_counter() - began))
    began = time.perf_counter()
    # Groups must come in one message, which a stream cuts where it likes.
    await (checker.verify(samples) if checker.info.groups else checker.stream(samples))
    per_second = len(samples) / (time.perf_counter() - began)
    milliseconds = np.array(took)

    def quantile(level: float) -> Estimate:
        return bootstrap(lambda index: float(np.quantile(milliseconds[index], level)), len(took), checker.settings.seed)

    return Findings(
        len(samples),
        {
            MEDIAN.name: quantile(0.5),
            NINETY.name: quantile(0.9),
            NINETY_NINE.name: quantile(0.99),
            THROUGHPUT.name: Estimate(per_second, None, None, len(samples)),
        },
        notes=("One answer at a time is what an idle service takes; nothing else was asked of it meanwhile.",),
        plots=(
            Histogram(
                "latency",
                "Time of a call with one answer",
                "milliseconds",
                tuple(took),
                {"median": float(np.median(milliseconds)), "99th percentile": float(np.quantile(milliseconds, 0.99))},
            ),
        ),
    )


CHECK = Check("speed", "Speed", "How long one answer takes in a call of its own, and how many a second go through together.", SPECS, run)
