"""Rank: the order of several answers, from pairs (all of them, or a sparse tournament) or from lists.

A list is read once for each order in which it is shown: the probabilities of the letters as the best answer are taken for Plackett-Luce
strengths, so that i beats j with p_i / (p_i + p_j) (FIRST: Reddy et al. 2024, arXiv 2406.15657, who rank by the same logits). A list that
is written is an order, and its pairs are certain.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rewardmesh.judge.bench import SERVICE, Bench
from rewardmesh.judge.interview import Answer
from rewardmesh.judge.questions import Item, Writer
from rewardmesh.judge.ranking import combined, complete, ranking
from rewardmesh.judge.template import JudgeTemplate
from rewardmesh.judge.tournaments import Pairs, all_pairs, default_pairs_per_answer, list_orders, sparse_pairs
from rewardmesh.judge.verdicts import preference
from rewardmesh.judge.votes import ballot
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.rankings import AGGREGATIONS, Matrix
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


@dataclass(frozen=True)
class Turn:
    """One repeat of one group: the pairs that meet, or the order in which the list is shown."""

    pairs: Pairs
    order: list[int]


async def rank(bench: Bench, request: api.RankRequest, context: CallContext) -> api.RankResponse:
    """One outcome a group, in order."""
    require_unique_ids((group.id for group in request.groups), "groups")
    votes = ballot(request.votes, request.temperature, request.seed)
    listwise = request.method == api.RANK_METHOD_LISTWISE
    template = bench.library.get("rank" if listwise else "compare", request.template)
    _check(request, template)
    prompts = [bench.library.constitutions.prompts(group.context.principles) for group in request.groups]
    sitting = bench.sit(request.model, template, prompts)
    problems = [_problem(group, template if listwise else None) for group in request.groups]
    plans = [[] if problem else _plan(request, group) for group, problem in zip(request.groups, problems, strict=True)]

    def items(writer: Writer) -> list[Item]:
        return [
            replace(item, turn=number)
            for group, plan in zip(request.groups, plans, strict=True)
            for number, turn in enumerate(plan)
            for item in _items(writer, group, turn)
        ]

    answers = iter(await sitting.ask(items, votes, context))
    outcomes = []
    for group, problem, plan in zip(request.groups, problems, plans, strict=True):
        found = [list(itertools.islice(answers, len(turn.pairs) or 1)) for turn in plan]
        result = problem or _ranking(request.aggregation, template, len(group.completions), plan, found)
        flat = [answer for turn in found for answer in turn]
        provenance = sitting.provenance([answer.account for answer in flat], next((answer.prompts for answer in flat), ()))
        outcome = api.RankingOutcome(group_id=group.id, provenance=provenance)
        lost = result if isinstance(result, pb.Absence) else None
        if isinstance(result, pb.Absence):
            outcome.absence.CopyFrom(result)
        else:
            outcome.ranking.CopyFrom(result)
        count_outcome(SERVICE, sitting.model.name, lost)
        outcomes.append(outcome)
    return api.RankResponse(outcomes=outcomes)


def _check(request: api.RankRequest, template: JudgeTemplate) -> None:
    if request.method not in api.RankMethod.values():
        raise invalid_argument("method", f"unknown value {request.method}")
    if request.aggregation not in AGGREGATIONS:
        raise invalid_argument("aggregation", f"unknown value {request.aggregation}")
    if request.repeats < 0:
        raise invalid_argument("repeats", f"must be at least 1 (0 means 1), is {request.repeats}")
    if request.pairs_per_answer and request.method != api.RANK_METHOD_SPARSE:
        raise invalid_argument("pairs_per_answer", "is for method SPARSE")
    if request.pairs_per_answer < 0 or request.pairs_per_answer == 1:
        raise invalid_argument("pairs_per_answer", f"must be at least 2 (0 for the default), is {request.pairs_per_answer}")
    sampled = request.votes or any(hop.temperature for hop in template.hops)
    if request.repeats > 1 and not sampled and request.method in (api.RANK_METHOD_UNSPECIFIED, api.RANK_METHOD_ALL_PAIRS):
        raise invalid_argument(
            "repeats",
            "every pair is shown in both orders and probabilities are read, so that a repeat would say the same; set votes, or take method"
            " SPARSE or LISTWISE",
        )


def _problem(group: api.RankGroup, listed: JudgeTemplate | None) -> pb.Absence | None:
    size = len(group.completions)
    if size < 2:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"completions: at least 2 are needed, there are {size}")
    if listed and size > len(listed.labels):
        why = f"completions: template {listed.name!r} has labels for {len(listed.labels)}, there are {size}; method SPARSE takes more"
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, why)
    return None


def _plan(request: api.RankRequest, group: api.RankGroup) -> list[Turn]:
    size, repeats = len(group.completions), request.repeats or 1
    if request.method == api.RANK_METHOD_LISTWISE:
        return [Turn([], order) for order in list_orders(size, repeats, request.seed)]
    if request.method == api.RANK_METHOD_SPARSE:
        per_answer = request.pairs_per_answer or default_pairs_per_answer(size)
        return [Turn(sparse_pairs(size, per_answer, abs(request.seed) + number), []) for number in range(repeats)]
    return [Turn(all_pairs(size), [])] * repeats


def _items(writer: Writer, group: api.RankGroup, turn: Turn) -> list[Item]:
    texts = [completion.text for completion in group.completions]
    if turn.order:
        return [writer.listed(group.prompt, texts, group.references, group.context, turn.order)]
    return [writer.pair(group.prompt, texts[i], texts[j], group.references, group.context, both_orders=True) for i, j in turn.pairs]


def _ranking(
    aggregation: api.RankAggregation.ValueType, template: JudgeTemplate, size: int, plan: Sequence[Turn], found: Sequence[Sequence[Answer]]
) -> api.Ranking | pb.Absence:
    by_turn = [
        [_listed(template, turn.order, answers[0])] if turn.order else _orders(size, turn.pairs, answers)
        for turn, answers in zip(plan, found, strict=True)
    ]
    matrices = [matrix for turn in by_turn for matrix in turn]
    if not complete(combined(matrices)[0]):
        lost = next(answer.absence for answers in found for answer in answers if answer.absence)
        return absence(lost.reason, f"an answer has no verdict against any other: {lost.detail}", retryable=lost.retryable)
    repeats = [combined(turn)[0] for turn in by_turn] if len(plan) > 1 else by_turn[0]
    verdicts = sum(len(tally.votes) for answers in found for answer in answers for tally in answer.tallies)
    return ranking(matrices, aggregation, rankings=repeats, verdicts=verdicts)


def _orders(size: int, pairs: Pairs, answers: Sequence[Answer]) -> list[Matrix]:
    """[n, n] probabilities from pairs shown as given, and from the same shown swapped."""
    given, swapped = _nothing(size), _nothing(size)
    for (i, j), answer in zip(pairs, answers, strict=True):
        if answer.absence is None:
            result = preference(*answer.tallies)
            given[i, j], swapped[i, j] = result.p_a_as_given, result.p_a_swapped
            given[j, i], swapped[j, i] = 1 - given[i, j], 1 - swapped[i, j]
    return [given, swapped]


def _listed(template: JudgeTemplate, order: Sequence[int], answer: Answer) -> Matrix:
    """[n, n] probabilities from one list."""
    matrix = _nothing(len(order))
    if answer.absence:
        return matrix
    [tally] = answer.tallies
    read = [vote.chances for vote in tally.votes] if template.written else [tally.chances]
    for (place, i), (other, j) in itertools.permutations(enumerate(order), 2):
        ratios = [chances[place] / both for chances in read if (both := chances[place] + chances[other])]
        if template.written:
            ratios = [float(ratio > 0.5) for ratio in ratios]
        matrix[i, j] = np.mean(ratios) if ratios else np.nan
    return matrix


def _nothing(size: int) -> Matrix:
    matrix = np.full((size, size), np.nan)
    np.fill_diagonal(matrix, 0.5)
    return matrix
