"""From label log-probabilities to preferences and grades. Pure functions.

A preference is the probability of the label for a over that of both labels, a tie counted half, averaged over the two orders of
presentation: an additive position bias cancels. A grade is the expected score under the label probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rewardmesh.judge.template import Criterion, JudgeTemplate
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


def label_probabilities(log_probs: Sequence[float], min_mass: float) -> tuple[float, ...] | pb.Absence:
    """Probabilities over the labels alone, summing to 1.

    Args:
        log_probs: of each label over the whole vocabulary, nats.
        min_mass: least probability of all labels together.

    Returns:
        One probability a label; NON_FINITE for NaN or infinity; UNPARSABLE when the model would say something else.
    """
    if any(math.isnan(value) or value == math.inf for value in log_probs):
        return absence(pb.ABSENCE_REASON_NON_FINITE, "the model computed NaN or infinity")
    probabilities = [math.exp(value) for value in log_probs]
    mass = sum(probabilities)
    if mass < min_mass or mass == 0:
        return absence(
            pb.ABSENCE_REASON_UNPARSABLE,
            f"the labels have probability {mass:.2g} together, at least {min_mass:g} is wanted: the model would say something else",
        )
    return tuple(value / mass for value in probabilities)


def preference(as_given: Sequence[float], swapped: Sequence[float] | None) -> api.Preference:
    """A preference from the label probabilities (a, b[, tie]) of one or both orders; in `swapped` label a stands for the answer b."""
    given = _first_wins(as_given)
    if swapped is None:
        return api.Preference(p_a=given, p_a_as_given=given, p_tie=_tie(as_given), agreement=1.0)
    other = 1 - _first_wins(swapped)
    return api.Preference(
        p_a=(given + other) / 2,
        p_a_as_given=given,
        p_a_swapped=other,
        p_tie=(_tie(as_given) + _tie(swapped)) / 2,
        agreement=1 - abs(given - other),
    )


def grades(template: JudgeTemplate, criteria: Sequence[Criterion], probabilities: Iterable[Sequence[float]]) -> api.Grades:
    """Expected scores from the label probabilities of each criterion, and their weighted mean mapped to [0, 1]."""
    parts = []
    total = 0.0
    for criterion, chances in zip(criteria, probabilities, strict=True):
        score = sum(chance * value for chance, value in zip(chances, template.values, strict=True))
        score = min(max(score, template.low), template.high)
        total += criterion.weight * (score - template.low) / (template.high - template.low)
        grade = api.Grade(criterion_id=criterion.id, score=score, min=template.low, max=template.high)
        if template.yes_no:
            grade.p_yes = score
        parts.append(grade)
    return api.Grades(grades=parts, total=total / sum(criterion.weight for criterion in criteria))


def _first_wins(chances: Sequence[float]) -> float:
    return chances[0] + _tie(chances) / 2


def _tie(chances: Sequence[float]) -> float:
    return chances[2] if len(chances) > 2 else 0.0
