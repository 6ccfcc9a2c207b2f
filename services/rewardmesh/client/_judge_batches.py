"""Batch calls to judges; see `_batches`."""

from collections.abc import Iterable

from rewardmesh.client._batches import Batch, checked, chunks_of, extended_by, flat, sample_id_of, unique
from rewardmesh.client.messages import Model, model_ref
from rewardmesh.client.results import Critique, Grades, Preference, Ranking
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.judge_service_pb2 import (
    CompareOrders,
    CompareRequest,
    CompareResponse,
    CritiqueOutcome,
    CritiqueRequest,
    CritiqueResponse,
    GradeRequest,
    GradeResponse,
    GradesOutcome,
    Pair,
    PreferenceOutcome,
    RankAggregation,
    RankGroup,
    RankingOutcome,
    RankMethod,
    RankRequest,
    RankResponse,
)


def compare_request(
    model: Model, template: str, both_orders: bool, votes: int, temperature: float, seed: int, want_rationale: bool
) -> CompareRequest:
    return CompareRequest(
        model=model_ref(model),
        template=template,
        orders=CompareOrders.COMPARE_ORDERS_BOTH if both_orders else CompareOrders.COMPARE_ORDERS_AS_GIVEN,
        votes=votes,
        temperature=temperature,
        seed=seed,
        want_rationale=want_rationale,
    )


def compare(pairs: Iterable[Pair], size: int, like: CompareRequest) -> Batch[CompareRequest, CompareResponse, list[Preference]]:
    chunks = chunks_of(unique(pairs, "pair"), size)
    return Batch(
        [extended_by(like, CompareRequest(pairs=chunk)) for chunk in chunks],
        flat(
            chunks,
            lambda chunk, reply: checked(chunk, [Preference.from_proto(o) for o in reply.outcomes], lambda found: found.pair_id),
            lambda item, absence: Preference.from_proto(PreferenceOutcome(pair_id=item.id, absence=absence.to_proto())),
        ),
    )


def grade_request(model: Model, rubric: str, votes: int, temperature: float, seed: int, want_rationale: bool) -> GradeRequest:
    return GradeRequest(
        model=model_ref(model), rubric=rubric, votes=votes, temperature=temperature, seed=seed, want_rationale=want_rationale
    )


def grade(samples: Iterable[Sample], size: int, like: GradeRequest) -> Batch[GradeRequest, GradeResponse, list[Grades]]:
    chunks = chunks_of(unique(samples, "sample"), size)
    return Batch(
        [extended_by(like, GradeRequest(samples=chunk)) for chunk in chunks],
        flat(
            chunks,
            lambda chunk, reply: checked(chunk, [Grades.from_proto(o) for o in reply.outcomes], sample_id_of),
            lambda item, absence: Grades.from_proto(GradesOutcome(sample_id=item.id, absence=absence.to_proto())),
        ),
    )


def rank_request(
    model: Model,
    template: str,
    method: str,
    repeats: int,
    aggregation: str,
    pairs_per_answer: int,
    votes: int,
    temperature: float,
    seed: int,
) -> RankRequest:
    if method not in ("ALL_PAIRS", "SPARSE", "LISTWISE"):
        raise ValueError(f"unknown ranking method {method!r}: one of ALL_PAIRS, SPARSE, LISTWISE")
    if aggregation not in ("MEAN_WINS", "BORDA", "BRADLEY_TERRY", "ELO"):
        raise ValueError(f"unknown aggregation {aggregation!r}: one of MEAN_WINS, BORDA, BRADLEY_TERRY, ELO")
    return RankRequest(
        model=model_ref(model),
        template=template,
        method=RankMethod.Value(f"RANK_METHOD_{method}"),
        repeats=repeats,
        aggregation=RankAggregation.Value(f"RANK_AGGREGATION_{aggregation}"),
        pairs_per_answer=pairs_per_answer,
        votes=votes,
        temperature=temperature,
        seed=seed,
    )


def rank(groups: Iterable[RankGroup], size: int, like: RankRequest) -> Batch[RankRequest, RankResponse, list[Ranking]]:
    chunks = chunks_of(unique(groups, "group"), size)
    return Batch(
        [extended_by(like, RankRequest(groups=chunk)) for chunk in chunks],
        flat(
            chunks,
            lambda chunk, reply: checked(chunk, [Ranking.from_proto(o) for o in reply.outcomes], lambda found: found.group_id),
            lambda item, absence: Ranking.from_proto(RankingOutcome(group_id=item.id, absence=absence.to_proto())),
        ),
    )


def critique_request(
    model: Model,
    template: str,
    want_revision: bool,
    compare_revision: bool,
    compare_template: str,
    max_points: int,
    temperature: float,
    seed: int,
) -> CritiqueRequest:
    return CritiqueRequest(
        model=model_ref(model),
        template=template,
        want_revision=want_revision,
        compare_revision=compare_revision,
        compare_template=compare_template,
        max_points=max_points,
        temperature=temperature,
        seed=seed,
    )


def critique(samples: Iterable[Sample], size: int, like: CritiqueRequest) -> Batch[CritiqueRequest, CritiqueResponse, list[Critique]]:
    chunks = chunks_of(unique(samples, "sample"), size)
    return Batch(
        [extended_by(like, CritiqueRequest(samples=chunk)) for chunk in chunks],
        flat(
            chunks,
            lambda chunk, reply: checked(chunk, [Critique.from_proto(o) for o in reply.outcomes], sample_id_of),
            lambda item, absence: Critique.from_proto(CritiqueOutcome(sample_id=item.id, absence=absence.to_proto())),
        ),
    )
