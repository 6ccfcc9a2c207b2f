"""Preferences and grades of several members made one. Pure functions; `weights` are greater than 0, one a member.

Each vote keeps a probability where the members give one: `majority` is the share of the members' weight that is for a, not 0 or 1, so
that a jury that is split says so. What members disagree about stays visible: `vote_agreement` is the share of the weight that is on the
side of most, and rationales name each member's own number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rewardmesh.v1 import judge_service_pb2 as api

TIE = 1e-6
"""A probability this near to 0.5 is a tie: verdicts travel as float32, in which 0.7 is less than 0.7."""

Pool = Callable[[Sequence[float], Sequence[float]], float]
"""(values, weights) -> one value."""


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted mean."""
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted median: where half of the weight is reached; the middle of both values where it is met exactly."""
    ordered = sorted(zip(values, weights, strict=True))
    half, reached = sum(weights) / 2, 0.0
    for index, (value, weight) in enumerate(ordered):
        reached += weight
        if abs(reached - half) <= 1e-12 * half and index + 1 < len(ordered):
            return (value + ordered[index + 1][0]) / 2
        if reached > half:
            return value
    return ordered[-1][0]


def share_for(values: Sequence[float], weights: Sequence[float]) -> float:
    """Share of the weight whose value is above 0.5, a tie half."""
    return mean([side(value) / 2 + 0.5 for value in values], weights)


def side(value: float, threshold: float = 0.5) -> int:
    """1 above the threshold, -1 below, 0 for a tie."""
    return 0 if abs(value - threshold) <= TIE else 1 if value > threshold else -1


def reaches(value: float, threshold: float) -> bool:
    """Whether a value is at or above a threshold."""
    return value >= threshold - TIE


def agreement(values: Sequence[float], weights: Sequence[float], threshold: float = 0.5) -> float:
    """Share in (0, 1] of the weight that is on the side of most (above, below or tied)."""
    tally: dict[int, float] = {}
    for value, weight in zip(values, weights, strict=True):
        tally[side(value, threshold)] = tally.get(side(value, threshold), 0.0) + weight
    return max(tally.values()) / sum(weights)


def pool_preferences(found: Mapping[str, api.Preference], weights: Mapping[str, float], pool: Pool) -> api.Preference:
    """One preference from those of at least one member, by name.

    p_a pools the members' p_a, each of which is freed of its own position bias first; the orders are pooled for themselves.
    """
    members = list(found.values())
    shares = [weights[name] for name in found]
    result = api.Preference(
        p_a=pool([each.p_a for each in members], shares),
        p_a_as_given=pool([each.p_a_as_given for each in members], shares),
        p_tie=mean([each.p_tie for each in members], shares),
        votes=len(members),
        agreement=1.0,
        rationales=[line for name, each in found.items() for line in said(name, each)],
        vote_agreement=agreement([each.p_a for each in members], shares),
        unparsable_votes=sum(each.unparsable_votes for each in members),
    )
    if all(each.HasField("p_a_swapped") for each in members):
        result.p_a_swapped = pool([each.p_a_swapped for each in members], shares)
        result.agreement = 1 - abs(result.p_a_as_given - result.p_a_swapped)
    stated = {name: each for name, each in found.items() if each.HasField("strength")}
    if stated:
        result.strength = mean([each.strength for each in stated.values()], [weights[name] for name in stated])
    return result


def said(name: str, preference: api.Preference) -> list[str]:
    """A member's number and reasons as lines that name it."""
    return [f"{name}: p={preference.p_a:.4f}", *(f"{name}: {reason}" for reason in preference.rationales)]


def pool_grades(
    found: Mapping[str, api.Grades], weights: Mapping[str, float], pool: Pool, *, threshold: float = 0.5, approve: bool = False
) -> api.Grades:
    """One set of grades from those of at least one member, by name: the total of totals, and each criterion over those that grade it.

    A criterion that members grade on different scales is mapped to [0, 1]. With `approve` a value at or above the threshold of its
    range counts as 1, another as 0, before they are pooled.
    """
    ids = list(dict.fromkeys(grade.criterion_id for grades in found.values() for grade in grades.grades))
    shares = [weights[name] for name in found]
    totals = [each.total for each in found.values()]
    counted = [float(reaches(total, threshold)) for total in totals] if approve else totals
    return api.Grades(
        grades=[_pool_criterion(identifier, found, weights, pool, threshold if approve else None) for identifier in ids],
        total=pool(counted, shares),
        votes=len(found),
        vote_agreement=_approval_agreement(totals, shares, threshold),
        unparsable_votes=sum(each.unparsable_votes for each in found.values()),
    )


def _approval_agreement(totals: Sequence[float], weights: Sequence[float], threshold: float) -> float:
    approving = sum(weight for total, weight in zip(totals, weights, strict=True) if reaches(total, threshold))
    return max(approving, sum(weights) - approving) / sum(weights)


def _pool_criterion(
    identifier: str, found: Mapping[str, api.Grades], weights: Mapping[str, float], pool: Pool, threshold: float | None
) -> api.Grade:
    graded = {name: grade for name, grades in found.items() for grade in grades.grades if grade.criterion_id == identifier}
    shares = [weights[name] for name in graded]
    ranges = {(grade.min, grade.max) for grade in graded.values()}
    low, high = ranges.pop() if len(ranges) == 1 else (0.0, 1.0)
    units = [_unit(grade) for grade in graded.values()]
    pooled = pool(units if threshold is None else [float(reaches(unit, threshold)) for unit in units], shares)
    result = api.Grade(criterion_id=identifier, score=low + pooled * (high - low), min=low, max=high)
    if all(grade.HasField("p_yes") for grade in graded.values()):
        result.p_yes = pooled
    lines = [
        f"{name}: {grade.score:.4g} of [{grade.min:g}, {grade.max:g}]" + (f", {grade.rationale}" if grade.rationale else "")
        for name, grade in graded.items()
    ]
    result.rationale = "\n".join(lines)
    return result


def _unit(grade: api.Grade) -> float:
    return (grade.score - grade.min) / (grade.max - grade.min) if grade.max > grade.min else grade.score
