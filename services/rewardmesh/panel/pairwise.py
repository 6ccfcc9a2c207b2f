"""Rank and shown orders by Compare alone, for the rules that decide a pair at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from rewardmesh.panel.absences import abstained, describe
from rewardmesh.panel.asking import Ask
from rewardmesh.panel.rankings import Aggregation, aggregated
from rewardmesh.serving.rankings import kendall_w, mean_wins, met
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Compare = Callable[[Ask, Sequence[api.Pair]], Awaitable[list[api.Preference | pb.Absence]]]


async def rank_by_pairs(compare: Compare, ask: Ask, groups: Sequence[api.RankGroup]) -> list[api.Ranking | pb.Absence]:
    """Compare every pair of each group, all groups in one go, and order the answers by the verdicts, scored as the caller asks.

    A pair without a verdict is left out; an answer without any takes its group's ranking with it.
    """
    pairs: list[api.Pair] = []
    owners: dict[str, str] = {}
    for group in groups:
        for i, j in itertools.combinations(range(len(group.completions)), 2):
            pair = api.Pair(
                id=f"{len(pairs)}", prompt=group.prompt, a=group.completions[i], b=group.completions[j], references=group.references
            )
            if group.HasField("context"):
                pair.context.CopyFrom(group.context)
            owners[pair.id] = group.id
            pairs.append(pair)
    verdicts = iter(await compare(ask.under(owners), pairs))
    return [
        rank_of(len(group.completions), list(itertools.islice(verdicts, math.comb(len(group.completions), 2))), ask.aggregation)
        for group in groups
    ]


def rank_of(
    size: int, verdicts: Sequence[api.Preference | pb.Absence], aggregation: Aggregation = api.RANK_AGGREGATION_UNSPECIFIED
) -> api.Ranking | pb.Absence:
    """The ranking of `size` answers from the verdicts on all pairs (i < j), in order."""
    given, swapped = np.full((size, size), np.nan), np.full((size, size), np.nan)
    both = np.full((size, size), np.nan)
    for matrix in (given, swapped, both):
        np.fill_diagonal(matrix, 0.5)
    lost: dict[str, pb.Absence] = {}
    for (i, j), verdict in zip(itertools.combinations(range(size), 2), verdicts, strict=True):
        if isinstance(verdict, pb.Absence):
            lost[f"answers {i} and {j}"] = verdict
            continue
        other = verdict.p_a_swapped if verdict.HasField("p_a_swapped") else verdict.p_a_as_given
        for matrix, p in ((both, verdict.p_a), (given, verdict.p_a_as_given), (swapped, other)):
            matrix[i, j], matrix[j, i] = p, 1 - p
    if not met(both).any(axis=1).all():
        if all(each.reason == pb.ABSENCE_REASON_ABSTAINED for each in lost.values()):
            return abstained("an answer has no verdict against any other", lost)
        first = next(iter(lost.values()))
        return absence(first.reason, f"an answer has no verdict against any other: {describe(first)}", retryable=first.retryable)
    orders = sum(1 + verdict.HasField("p_a_swapped") for verdict in verdicts if isinstance(verdict, api.Preference))
    return aggregated(both, aggregation, concordance=kendall_w([mean_wins(given), mean_wins(swapped)]), verdicts=orders)


def both_orders(options: object) -> bool:
    """Whether the caller wants both orders of a pair."""
    return not (isinstance(options, api.CompareRequest) and options.orders == api.COMPARE_ORDERS_AS_GIVEN)


def flipped(pair: api.Pair, identifier: str) -> api.Pair:
    """The same pair the other way round, under another id."""
    other = api.Pair()
    other.CopyFrom(pair)
    other.id = identifier
    other.a.CopyFrom(pair.b)
    other.b.CopyFrom(pair.a)
    return other


def of_orders(given: api.Preference, swapped: api.Preference | None) -> api.Preference:
    """One preference from the verdict on (a, b) and, where it was asked for, that on (b, a), each shown in that order only."""
    result = api.Preference()
    result.CopyFrom(given)
    result.p_a_as_given, result.agreement = given.p_a, 1.0
    result.ClearField("p_a_swapped")
    if swapped is not None:
        result.p_a_swapped = 1 - swapped.p_a
        result.p_a = (given.p_a + result.p_a_swapped) / 2
        result.agreement = 1 - abs(result.p_a_as_given - result.p_a_swapped)
        result.p_tie = (given.p_tie + swapped.p_tie) / 2
        result.votes += swapped.votes
        result.unparsable_votes += swapped.unparsable_votes
        result.rationales.extend(swapped.rationales)
        shares = [each.vote_agreement for each in (given, swapped) if each.HasField("vote_agreement")]
        if shares:
            result.vote_agreement = sum(shares) / len(shares)
        if given.HasField("strength") and swapped.HasField("strength"):
            result.strength = (given.strength + swapped.strength) / 2
    return result
