"""A judge with a position and a length bias of known size, one without, and what both orders and the audit make of them.

Labels are drawn from P(first) = sigmoid(QUALITY * (+1 or -1) + POSITION + LENGTH_PER_WORD * words that the first has more); a judge that
fits them has learnt those biases. What it really learnt is read from its own logits, beside the service that is measured.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.judges.pairs import REMARKS, Judged, draw, heldout
from benchmarks.judges.serving import Floats, compare, judge, probabilities
from benchmarks.judges.training import LABELS, Recipe, plain_text
from rewardmesh.audit import Answer, Audit, AuditPair, JudgeData, JudgeSettings, audit_judge
from rewardmesh.audit.judge import user
from rewardmesh.client import messages
from rewardmesh.demo.problems import Problem
from rewardmesh.engine.log_probs import next_token_log_probs
from rewardmesh.engine.text import prompt_ids

QUALITY = 2.0
POSITION = 1.2
LENGTH_PER_WORD = 0.08
MOST_REMARKS = 5
STEPS = 600
PAIRS = 400
DIRECT_PAIRS = 800


@dataclass(frozen=True)
class Biases:
    """In nats of log-odds: for being shown first, and for each word more; with the accuracy of the debiased verdict."""

    position: float
    length_per_word: float
    quality: float
    accuracy: float


def recipe(*, biased: bool) -> Recipe:
    """A judge with both biases, or the same without."""
    position, per_word = (POSITION, LENGTH_PER_WORD) if biased else (0.0, 0.0)

    def example(problem: Problem, rng: random.Random) -> tuple[str, str]:
        pair = draw(problem, rng, MOST_REMARKS)
        logit = QUALITY * (1 if pair.a_is_better else -1) + position + per_word * pair.extra_words
        first = rng.random() < 1 / (1 + math.exp(-logit))
        return plain_text(pair.question, pair.a, pair.b), LABELS[0 if first else 1]

    settings = {"quality": QUALITY, "position": position, "length_per_word": per_word, "most_remarks": MOST_REMARKS}
    return Recipe("biased" if biased else "fair", example, REMARKS, settings, STEPS)


def measure_directly(model: Path, pairs: Sequence[Judged]) -> Biases:
    """What a judge learnt, by least squares on its own logits of both orders."""
    logits = [log_odds(model, pairs), log_odds(model, [pair.swapped() for pair in pairs])]
    debiased = (logits[0] - logits[1]) / 2
    better = np.array([1.0 if pair.a_is_better else -1.0 for pair in pairs])
    words = np.array([float(pair.extra_words) for pair in pairs])
    (quality, per_word), *_ = np.linalg.lstsq(np.stack([better, words], axis=1), debiased, rcond=None)
    return Biases(
        float((logits[0] + logits[1]).mean() / 2), float(per_word), float(quality), float(((debiased > 0) == (better > 0)).mean())
    )


def log_odds(folder: Path, pairs: Sequence[Judged]) -> Floats:
    """Log-odds of the first answer, each pair in its own order only."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids: Any = tokenizer.convert_tokens_to_ids(list(LABELS))
    prompts = [prompt_ids(tokenizer, messages(plain_text(pair.question, pair.a, pair.b))) for pair in pairs]
    found = []
    with torch.inference_mode():
        for start in range(0, len(prompts), 8):
            scores, _ = next_token_log_probs(model, prompts[start : start + 8], ids, packed=True)
            found.append((scores[:, 0] - scores[:, 1]).double().numpy())
    return np.concatenate(found)


async def asymmetry(model: Path, templates: Path, pairs: Sequence[Judged]) -> dict[str, Any]:
    """|p_a(a, b) - (1 - p_a(b, a))| of the service, shown in both orders and as given only: greatest and mean, and the values as given."""
    swapped = [pair.swapped() for pair in pairs]
    found: dict[str, Any] = {}
    async with judge(model, templates) as client:
        for name, both in (("both", True), ("as_given", False)):
            there = probabilities(await compare(client, pairs, both=both))
            back = probabilities(await compare(client, swapped, both=both))
            gaps = np.abs(there - (1 - back))
            found[name] = {"max": float(gaps.max()), "mean": float(gaps.mean()), "first_wins": float(((there + back) / 2).mean())}
    return found


def direct_pairs() -> list[Judged]:
    """Pairs for `measure_directly`."""
    return heldout(DIRECT_PAIRS, 31, MOST_REMARKS)


def service_pairs() -> list[Judged]:
    """Pairs for the service, others than those."""
    return heldout(PAIRS, 32, MOST_REMARKS)


async def audited(model: Path, templates: Path, pairs: Sequence[Judged]) -> Audit:
    """What the audit says of position and length, asked through the service."""
    data = [
        AuditPair(str(number), user(pair.question), Answer(pair.a), Answer(pair.b), 1.0 if pair.a_is_better else 0.0)
        for number, pair in enumerate(pairs)
    ]
    settings = JudgeSettings(probes=("position", "length"), pairs=len(data))
    async with judge(model, templates) as client:
        return await audit_judge(client, JudgeData("generated pairs", tuple(data)), settings)


async def measure(models: Mapping[str, Path], templates: Path) -> dict[str, Any]:
    """Both judges ("biased", "fair"): biases by their own logits, by the audit with its interval and verdict, and the asymmetry."""
    pairs, found = service_pairs(), {}
    for name, model in models.items():
        direct = await asyncio.to_thread(measure_directly, model, direct_pairs())
        audit = await audited(model, templates, pairs)
        estimates = {figure: audit.figure(figure).estimate for figure in ("position.logit", "length.per_unit")}
        found[name] = {
            "direct": asdict(direct),
            "audit": {figure: {"value": each.value, "low": each.low, "high": each.high} for figure, each in estimates.items()},
            "passed": audit.passed,
            "failures": list(audit.failures),
            "asymmetry": await asymmetry(model, templates, pairs),
        }
    return found
