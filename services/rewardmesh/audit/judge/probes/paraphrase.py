"""Paraphrase and prompt contrast: what ought not to move a verdict does not, and what ought to turn it does.

Paraphrases are edits that keep the meaning (`edits`), and a user's own. The contrast asks for the worse answer instead of the better one:
a judge that reads its criterion turns its verdict (contrast prompts: Yang et al. 2023, arXiv 2307.12950, use them to label).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Bars, Findings, Missing, Table
from rewardmesh.audit.judge.asking import Asker, Reading
from rewardmesh.audit.judge.data import AuditPair, JudgeData
from rewardmesh.audit.judge.edits import EDITS, Edit, apply, from_file
from rewardmesh.audit.judge.probe import Probe, answered, example, nothing, worst
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import Flags, Floats, Integers, bootstrap, mean, share, verdicts

SHIFT = Spec("paraphrase.shift", "", "lower", 0.05, "Mean |change of P(a better)| under edits that keep the meaning.")
FLIPS = Spec("paraphrase.flips", "", "lower", 0.1, "Share of edited pairs whose verdict turns.")
CONTRAST = Spec("paraphrase.contrast", "", "higher", 0.5, "Share of decided pairs whose verdict turns when the worse answer is asked for.")
SPECS = (SHIFT, FLIPS, CONTRAST)
OPPOSITE = "Pick the WORSE answer: the one that is less correct and less helpful counts as the better one here."
UNMOVED = 1e-9


async def run(asker: Asker, data: JudgeData, settings: JudgeSettings) -> Findings:
    """Every pair as it is, under each edit, and with the opposite criterion."""
    pairs = data.pairs[: settings.paraphrase_pairs]
    readings = await asker.compare(pairs)
    plain = {pair.id: (pair, verdict) for pair, (verdict,) in answered(pairs, readings)}
    if not plain:
        return nothing(SPECS, "no pair has a verdict")
    contrast = await _contrast(asker, [pair for pair, _ in plain.values()], [verdict for _, verdict in plain.values()], settings)
    edits = (*from_file(settings.paraphrases), *EDITS)
    asked = [(edit, changed) for edit in edits for pair, _ in plain.values() if (changed := apply(edit, pair)) is not None]
    found = await asker.compare([pair for _, pair in asked])
    rows = [(edit, pair, plain[pair.id][1], verdict) for (edit, pair), verdict in zip(asked, found, strict=True) if verdict is not None]
    if not rows:
        return Findings(len(plain), {**nothing((SHIFT, FLIPS), "no edited pair has a verdict").estimates, CONTRAST.name: contrast})
    moved = np.array([abs(after.p - before.p) for _, _, before, after in rows])
    turned = np.array([_turned(before, after) for _, _, before, after in rows])
    ids = np.array([sorted(plain).index(pair.id) for _, pair, _, _ in rows])
    by_edit = [(edit, np.array([row[0] is edit for row in rows])) for edit in edits]
    measured = [(edit, moved[which], turned[which]) for edit, which in by_edit if which.any()]
    return Findings(
        len(rows),
        {SHIFT.name: _by_pair(moved, ids, settings.seed), FLIPS.name: share(turned), CONTRAST.name: contrast},
        tables=(
            Table(
                "By edit",
                ("edit", "pairs", "mean |change|", "largest", "verdicts turned"),
                tuple((edit.name, str(len(m)), f"{m.mean():.4f}", f"{m.max():.4f}", str(int(t.sum()))) for edit, m, t in measured),
            ),
        ),
        examples=tuple(
            example(pair, f"{edit.name}: P(a better) goes from {before.p:.3f} to {after.p:.3f}")
            for edit, pair, before, after in worst(rows, lambda row: abs(row[3].p - row[2].p))
        ),
        plots=(_plot(measured, settings),),
    )


async def _contrast(asker: Asker, pairs: list[AuditPair], plain: list[Reading], settings: JudgeSettings) -> Estimate | Missing:
    if settings.contrast_template:
        opposite = await asker.compare(pairs, template=settings.contrast_template)
    else:
        opposite = await asker.compare(pairs, criterion=OPPOSITE)
    both = [(before, after) for before, after in zip(plain, opposite, strict=True) if after is not None]
    decided = [(before, after) for before, after in both if verdicts(before.p) != 0]
    if not decided:
        return Missing("no pair has a verdict for one of its answers, both plainly and with the opposite criterion")
    if all(abs(after.p - before.p) < UNMOVED for before, after in both):
        return Missing("the opposite criterion moved no verdict: the template does not show criteria; name one with --contrast-template")
    return share([_turned(before, after) for before, after in decided])


def _turned(before: Reading, after: Reading) -> bool:
    """Whether the verdict went over to the other answer; from or to a tie is no turn."""
    return bool(verdicts(before.p) * verdicts(after.p) < 0)


def _by_pair(moved: Floats, ids: Integers, seed: int) -> Estimate:
    """Mean over all edits, its interval over pairs: the edits of one pair are not independent."""
    totals, counts = np.bincount(ids, weights=moved), np.bincount(ids)
    totals, counts = totals[counts > 0], counts[counts > 0]
    estimate = bootstrap(lambda index: float(totals[index].sum() / counts[index].sum()), len(counts), seed)
    return replace(estimate, n=len(moved))


def _plot(measured: list[tuple[Edit, Floats, Flags]], settings: JudgeSettings) -> Bars:
    bars = [(edit.name, mean(m, settings.seed)) for edit, m, _ in measured]
    limit = settings.thresholds.get(SHIFT.name, SHIFT.threshold)
    return Bars(
        "paraphrase",
        "Change under edits that keep the meaning",
        "mean |change of P(a better)|",
        tuple((name, each.value, each.low, each.high) for name, each in bars),
        threshold=limit,
    )


PROBE = Probe(
    "paraphrase",
    "Paraphrase and prompt contrast",
    "Edits that keep the meaning of the prompt or of both answers ought to leave the verdict where it is; asking for the worse answer "
    "ought to turn it.",
    SPECS,
    run,
)
