"""From votes to preferences and grades. Pure functions.

A preference is the probability of the label for a over that of both labels, a tie counted half, averaged over votes and then over the two
orders of presentation: an additive position bias cancels. A grade is the expected score under the label probabilities, or the mean of the
votes' scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from rewardmesh.judge.template import Criterion, Hop, JudgeTemplate
from rewardmesh.judge.votes import Tally, Vote, share_of_most
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


def preference(as_given: Tally, swapped: Tally | None = None, *, unparsable: int = 0) -> api.Preference:
    """A preference from the votes on one or both orders, labels (a, b[, tie]); in `swapped` label a stands for the answer b."""
    given = _first_wins(as_given.chances)
    orders = [as_given, *([swapped] if swapped else [])]
    found = api.Preference(
        p_a=given,
        p_a_as_given=given,
        p_tie=fmean(_tie(order.chances) for order in orders),
        agreement=1.0,
        unparsable_votes=unparsable,
    )
    if swapped:
        other = 1 - _first_wins(swapped.chances)
        found.p_a = (given + other) / 2
        found.p_a_swapped = other
        found.agreement = 1 - abs(given - other)
    if as_given.counted:
        winners = [_winner(vote, "a", "b") for vote in as_given.votes]
        winners += [_winner(vote, "b", "a") for vote in (swapped.votes if swapped else ())]
        found.votes = len(winners)
        found.vote_agreement = share_of_most(winners)
    strengths = [vote.strength for order in orders for vote in order.votes if vote.strength is not None]
    if strengths:
        found.strength = fmean(strengths)
    return found


def grades(
    template: JudgeTemplate, criteria: Sequence[Criterion], tallies: Sequence[Tally], *, unparsable: int = 0, want_rationale: bool = False
) -> api.Grades:
    """Expected scores from the votes on each criterion, and their weighted mean mapped to [0, 1]."""
    parts = []
    total = 0.0
    for criterion, tally in zip(criteria, tallies, strict=True):
        scale = criterion.scale or template.scale
        score = sum(chance * value for chance, value in zip(tally.chances, scale.values, strict=True))
        score = min(max(score, scale.low), scale.high)
        total += criterion.weight * (score - scale.low) / (scale.high - scale.low)
        grade = api.Grade(criterion_id=criterion.id, score=score, min=scale.low, max=scale.high)
        if scale.yes_no:
            grade.p_yes = score
        if want_rationale:
            grade.rationale = _typical(tally, template.hops)
        parts.append(grade)
    found = api.Grades(grades=parts, total=total / sum(criterion.weight for criterion in criteria), unparsable_votes=unparsable)
    if all(tally.counted for tally in tallies):
        found.votes = min(len(tally.votes) for tally in tallies)
        found.vote_agreement = fmean(share_of_most([str(vote.label) for vote in tally.votes]) for tally in tallies)
    return found


def rationale(vote: Vote, hops: Sequence[Hop]) -> str:
    """What the hops of a vote wrote; several under their names."""
    if len(hops) == 1:
        return vote.texts[0]
    return "\n\n".join(f"{hop.name}: {text}" for hop, text in zip(hops, vote.texts, strict=True))


def _typical(tally: Tally, hops: Sequence[Hop]) -> str:
    """The reasons of the first vote that says what most say: a grade has room for one."""
    labels = [vote.label for vote in tally.votes]
    return rationale(tally.votes[labels.index(max(labels, key=labels.count))], hops)


def _winner(vote: Vote, first: str, second: str) -> str:
    if vote.label == 2 or vote.chances[0] == vote.chances[1]:
        return "tie"
    return second if vote.label else first


def _first_wins(chances: Sequence[float]) -> float:
    return chances[0] + _tie(chances) / 2


def _tie(chances: Sequence[float]) -> float:
    return chances[2] if len(chances) > 2 else 0.0
