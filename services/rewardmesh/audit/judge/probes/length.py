"""Length bias: what an answer gains by being longer, at equal quality.

The log-odds of the verdict are regressed on the logarithm of the ratio of lengths and on the label (+1 a is better, -1 b, 0 neither), by
least squares without intercept, since exchanging the answers changes the sign of everything. Log-odds rather than verdicts are regressed
because the judge gives them; with few votes they are shrunk (see `statistics.logit`). The verbosity bias is that of Saito et al. (2023,
arXiv 2310.10076): error where people prefer the shorter answer minus error where they prefer the longer.
"""

from __future__ import annotations

import numpy as np

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Findings, Missing, Points
from rewardmesh.audit.judge.asking import Asker
from rewardmesh.audit.judge.data import JudgeData
from rewardmesh.audit.judge.probe import Probe, answered, example, nothing, worst
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import Flags, Floats, Integers, bootstrap, difference, slopes, verdicts

PER_TENTH = Spec("length.per_10_percent", "logit", "zero", 0.05, "Log-odds that an answer gains by being 10 % longer, at equal label.")
PER_UNIT = Spec(
    "length.per_unit", "logit", "zero", None, "Log-odds that an answer gains by each further word (or other unit), at equal label."
)
VERBOSITY = Spec(
    "length.verbosity", "", "zero", 0.25, "Error where the label prefers the shorter answer minus error where it prefers the longer."
)
SPECS = (PER_TENTH, PER_UNIT, VERBOSITY)
FEWEST = 8
"""Pairs below which no slope is fitted."""


async def run(asker: Asker, data: JudgeData, settings: JudgeSettings) -> Findings:
    """Every pair once, both orders."""
    found = answered(data.pairs, await asker.compare(data.pairs))
    if len(found) < FEWEST:
        return nothing(SPECS, f"{len(found)} pairs have a verdict, a slope takes {FEWEST}")
    lengths = np.array([[max(settings.length_of(each.text), 1) for each in (pair.a, pair.b)] for pair, _ in found], dtype=np.float64)
    y = np.array([reading.strength for _, (reading,) in found])
    p = np.array([reading.p for _, (reading,) in found])
    unlabelled = np.array([pair.label is None for pair, _ in found])
    label = np.array([0.0 if pair.label is None else 2 * pair.label - 1 for pair, _ in found])
    log_ratio, by_units = np.log(lengths[:, 0] / lengths[:, 1]), lengths[:, 0] - lengths[:, 1]
    per_log = _slope(log_ratio, label, y, settings.seed)
    per_tenth = per_log if isinstance(per_log, Missing) else per_log.times(float(np.log(1.1)))
    notes = (f"{int(unlabelled.sum())} pairs have no label: at those, quality is not controlled for.",) if unlabelled.any() else ()
    gain = y * np.sign(by_units)
    undeserved = [(pair, float(each)) for (pair, _), each, by in zip(found, gain, label * by_units, strict=True) if by <= 0]
    return Findings(
        len(found),
        {
            PER_TENTH.name: per_tenth,
            PER_UNIT.name: _slope(by_units, label, y, settings.seed),
            VERBOSITY.name: _verbosity(p, label, by_units),
        },
        notes=notes,
        examples=tuple(
            example(pair, f"the longer answer is ahead by {each:+.2f} logits; label: {_label(pair.label)}")
            for pair, each in worst(undeserved, lambda row: row[1])
        ),
        plots=(
            Points(
                "length",
                "Verdict against length",
                f"ln(length of a / length of b), in {settings.length_unit}s",
                "log-odds that a is better",
                _groups(log_ratio, y, label, unlabelled),
                line=None if isinstance(per_log, Missing) else _line(log_ratio, per_log.value),
                line_label="" if isinstance(per_log, Missing) else f"slope at equal label {per_log.value:+.2f}",
            ),
        ),
    )


def _slope(x: Floats, label: Floats, y: Floats, seed: int) -> Estimate | Missing:
    """Slope on x with the label held constant."""
    columns = np.column_stack([x, label]) if label.any() else x[:, None]

    def fit(index: Integers) -> float:
        found = slopes(columns[index], y[index])
        return float("nan") if found is None else float(found[0])

    if slopes(columns, y) is None:
        return Missing("all answers are equally long, or their lengths follow the labels exactly")
    return bootstrap(fit, len(y), seed)


def _verbosity(p: Floats, label: Floats, difference_in_length: Floats) -> Estimate | Missing:
    # A tie is no answer to the question which of two is better: it counts as an error.
    wrong = (verdicts(p) != np.sign(label)) & (label != 0)
    shorter, longer = label * difference_in_length < 0, label * difference_in_length > 0
    if min(shorter.sum(), longer.sum()) < FEWEST:
        return Missing(f"fewer than {FEWEST} labelled pairs prefer the shorter answer, or fewer than {FEWEST} the longer")
    return difference(wrong[shorter], wrong[longer])


def _groups(x: Floats, y: Floats, label: Floats, unlabelled: Flags) -> dict[str, tuple[tuple[float, float], ...]]:
    named = {"a better": label > 0, "b better": label < 0, "equally good": (label == 0) & ~unlabelled, "no label": unlabelled}
    return {name: tuple(zip(x[which].tolist(), y[which].tolist(), strict=True)) for name, which in named.items() if which.any()}


def _line(x: Floats, slope: float) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = float(x.min()), float(x.max())
    return (low, slope * low), (high, slope * high)


def _label(label: float | None) -> str:
    return {None: "none", 1.0: "a better", 0.0: "b better", 0.5: "equally good"}.get(label, f"{label}")


PROBE = Probe(
    "length",
    "Length bias",
    "A regression of the verdict's log-odds on the difference in length, with the label held constant, says what length alone is worth. "
    "The verbosity bias asks the same of errors: are they made where people prefer the shorter answer?",
    SPECS,
    run,
)
