"""Batch calls without their transport: how many items become few requests, and replies become one result an item, in order.

A `Batch` is shared by the blocking and the asyncio client: either sends `requests` (several at once) and hands `read` one reply a request:
the response, or the `Absence` that all items of that request share.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.struct_pb2 import Struct

from rewardmesh.client.arrays import pack_ints
from rewardmesh.client.errors import CallFailed
from rewardmesh.client.messages import Model, model_ref
from rewardmesh.client.results import (
    Absence,
    Evaluation,
    Evaluations,
    Score,
    Selection,
    SuffixScores,
    TokenScores,
    Verdict,
)
from rewardmesh.v1.common_pb2 import ModelRef, Outcome, Provenance, Sample
from rewardmesh.v1.judge_service_pb2 import CompareRequest, CritiqueRequest, GradeRequest, RankRequest
from rewardmesh.v1.log_prob_service_pb2 import (
    LogProbWants,
    ScoreSuffixesRequest,
    ScoreSuffixesResponse,
    ScoreTokensRequest,
    ScoreTokensResponse,
    SuffixNormalisation,
    SuffixScoresOutcome,
    TokenLogProbsOutcome,
    TokenPrefix,
    TokenSequence,
)
from rewardmesh.v1.mesh_service_pb2 import EvaluateOptions, EvaluateRequest, EvaluateResponse, SelectBestRequest, SelectBestResponse
from rewardmesh.v1.mesh_service_pb2 import Evaluation as EvaluationMessage
from rewardmesh.v1.reward_service_pb2 import ScoreOptions, ScoreRequest, ScoreResponse
from rewardmesh.v1.verifier_service_pb2 import VerdictOutcome, VerifyRequest, VerifyResponse


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Q = TypeVar("Q")
A = TypeVar("A")
Out = TypeVar("Out")
Item = TypeVar("Item", bound=_HasId)
R = TypeVar("R")


@dataclass(frozen=True)
class Batch(Generic[Q, A, Out]):
    """Requests to send, and how to read their replies (as many, in the same order)."""

    requests: list[Q]
    read: Callable[[Sequence[A | Absence]], Out]


def read_replies(batch: Batch[Q, A, Out], replies: Sequence[A | Absence]) -> Out:
    """The results of a batch; a reply that does not keep the contract raises CallFailed."""
    try:
        return batch.read(replies)
    except ValueError as error:
        raise broken_promise(str(error)) from error


def unique(items: Iterable[Item], what: str) -> list[Item]:
    """List the items; an empty or repeated id raises ValueError. The server would not see one that spans two chunks."""
    listed = list(items)
    seen: set[str] = set()
    for position, item in enumerate(listed):
        if not item.id:
            raise ValueError(f"{what} {position} has no id")
        if item.id in seen:
            raise ValueError(f"duplicate {what} id {item.id!r}")
        seen.add(item.id)
    return listed


def score(
    samples: Iterable[Sample], size: int, options: ScoreOptions | None, model: Model
) -> Batch[ScoreRequest, ScoreResponse, list[Score]]:
    chosen = score_options(options, model)
    chunks = chunks_of(unique(samples, "sample"), size)
    return Batch(
        [ScoreRequest(options=chosen, samples=chunk) for chunk in chunks],
        flat(chunks, lambda chunk, reply: checked(chunk, [Score.from_proto(o) for o in reply.outcomes], sample_id_of), absent_score),
    )


def verify(
    samples: Iterable[Sample], size: int, verifier: str, options: Mapping[str, Any] | None
) -> Batch[VerifyRequest, VerifyResponse, list[Verdict]]:
    """Chunks hold whole groups, since some verifiers judge the answers to one prompt together."""
    listed = unique(samples, "sample")
    chunks = whole_groups(listed, size)
    struct = None
    if options is not None:
        struct = Struct()
        struct.update(options)
    in_chunks: Callable[[Sequence[VerifyResponse | Absence]], list[Verdict]] = flat(
        chunks,
        lambda chunk, reply: checked(chunk, [Verdict.from_proto(o) for o in reply.outcomes], sample_id_of),
        lambda item, absence: Verdict.from_proto(VerdictOutcome(sample_id=item.id, absence=absence.to_proto())),
    )

    def read(replies: Sequence[VerifyResponse | Absence]) -> list[Verdict]:
        by_id = {verdict.sample_id: verdict for verdict in in_chunks(replies)}
        return [by_id[item.id] for item in listed]

    return Batch([VerifyRequest(verifier=verifier, samples=chunk, options=struct) for chunk in chunks], read)


def score_suffixes_request(suffixes: Iterable[Iterable[int]], policy: Model, normalise: str, temperature: float) -> ScoreSuffixesRequest:
    if normalise not in ("SUM", "MEAN"):
        raise ValueError(f"unknown normalisation {normalise!r}: SUM or MEAN")
    return ScoreSuffixesRequest(
        policy=model_ref(policy),
        suffixes=[pack_ints(suffix) for suffix in suffixes],
        normalise=SuffixNormalisation.Value(f"SUFFIX_NORMALISATION_{normalise}"),
        temperature=temperature,
    )


def score_suffixes(
    prefixes: Iterable[TokenPrefix], size: int, like: ScoreSuffixesRequest
) -> Batch[ScoreSuffixesRequest, ScoreSuffixesResponse, list[SuffixScores]]:
    chunks = chunks_of(unique(prefixes, "prefix"), size)

    def present(chunk: list[TokenPrefix], reply: ScoreSuffixesResponse) -> list[SuffixScores]:
        found = checked(chunk, [SuffixScores.from_proto(o) for o in reply.outcomes], lambda scores: scores.prefix_id)
        for scores in found:
            if scores.values is not None and len(scores.values) != len(like.suffixes):
                raise broken_promise(f"{len(scores.values)} values for {len(like.suffixes)} suffixes on {scores.prefix_id!r}")
        return found

    return Batch(
        [extended_by(like, ScoreSuffixesRequest(prefixes=chunk)) for chunk in chunks],
        flat(
            chunks,
            present,
            lambda item, absence: SuffixScores.from_proto(SuffixScoresOutcome(prefix_id=item.id, absence=absence.to_proto())),
        ),
    )


def score_tokens_request(policies: Sequence[str | ModelRef], temperature: float, want: LogProbWants | None) -> ScoreTokensRequest:
    references = [ModelRef(name=policy) if isinstance(policy, str) else policy for policy in policies]
    return ScoreTokensRequest(policies=references, temperature=temperature, want=want)


def score_tokens(
    sequences: Iterable[TokenSequence], size: int, like: ScoreTokensRequest
) -> Batch[ScoreTokensRequest, ScoreTokensResponse, list[TokenScores]]:
    """Sequence-major: as many results a sequence as policies are asked for (one when none is named)."""
    chunks = chunks_of(unique(sequences, "sequence"), size)
    policies = list(like.policies) or [ModelRef()]

    def read(replies: Sequence[ScoreTokensResponse | Absence]) -> list[TokenScores]:
        found: list[TokenScores] = []
        for chunk, reply in zip(chunks, replies, strict=True):
            if isinstance(reply, Absence):
                found += [absent(item, policy, reply) for item in chunk for policy in policies]
            else:
                expected = [item for item in chunk for _ in policies]
                found += checked(expected, [_scores(outcome) for outcome in reply.outcomes], lambda scores: scores.sequence_id)
        return found

    def absent(item: TokenSequence, policy: ModelRef, absence: Absence) -> TokenScores:
        outcome = TokenLogProbsOutcome(sequence_id=item.id, absence=absence.to_proto(), provenance=Provenance(model=policy))
        return TokenScores.from_proto(outcome)

    return Batch([extended_by(like, ScoreTokensRequest(sequences=chunk)) for chunk in chunks], read)


def evaluate(samples: Iterable[Sample], size: int, options: EvaluateOptions) -> Batch[EvaluateRequest, EvaluateResponse, Evaluations]:
    """Chunks hold whole groups: answers to one prompt are judged against each other, so a group is never split (it may exceed the size)."""
    listed = unique(samples, "sample")
    chunks = whole_groups(listed, size)

    def read(replies: Sequence[EvaluateResponse | Absence]) -> Evaluations:
        parts = [
            absent_evaluations(c, r) if isinstance(r, Absence) else _read_evaluations(c, r) for c, r in zip(chunks, replies, strict=True)
        ]
        by_id = {evaluation.sample_id: evaluation for part in parts for evaluation in part.evaluations}
        return Evaluations(
            tuple(by_id[item.id] for item in listed),
            tuple(group for part in parts for group in part.groups),
            next((part.program_fingerprint for part in parts if part.program_fingerprint), ""),
        )

    return Batch([EvaluateRequest(options=options, samples=chunk) for chunk in chunks], read)


def select_best(samples: Iterable[Sample], options: EvaluateOptions) -> Batch[SelectBestRequest, SelectBestResponse, Selection]:
    listed = unique(samples, "sample")
    if not listed:
        raise ValueError("no samples to select from")

    def read(replies: Sequence[SelectBestResponse | Absence]) -> Selection:
        (reply,) = replies
        if isinstance(reply, Absence):
            return Selection(None, absent_evaluations(listed, reply).evaluations)
        selection = Selection.from_proto(reply)
        checked(listed, list(selection.evaluations), sample_id_of)
        return selection

    return Batch([SelectBestRequest(options=options, samples=listed)], read)


def score_options(options: ScoreOptions | None, model: Model) -> ScoreOptions | None:
    """The options with the model set in them, when it is given beside."""
    reference = model_ref(model)
    if reference is None:
        return options
    chosen = ScoreOptions()
    if options is not None:
        chosen.CopyFrom(options)
    chosen.model.CopyFrom(reference)
    return chosen


def absent_score(item: Sample, absence: Absence) -> Score:
    return Score.from_proto(Outcome(sample_id=item.id, absence=absence.to_proto()))


def absent_evaluations(samples: Iterable[Sample], absence: Absence) -> Evaluations:
    """What a group becomes when the gateway could not be asked."""
    outcomes = [Outcome(sample_id=item.id, absence=absence.to_proto()) for item in samples]
    return Evaluations(tuple(Evaluation.from_proto(EvaluationMessage(outcome=outcome)) for outcome in outcomes), (), "")


def broken_promise(what: str) -> CallFailed:
    """The server's answer does not keep the contract: an error of the whole call, never a guess."""
    return CallFailed(grpc.StatusCode.INTERNAL, what)


def chunks_of(items: list[Item], size: int) -> list[list[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def whole_groups(samples: list[Sample], size: int) -> list[list[Sample]]:
    """Chunks of at most `size` samples that split no group; a larger group is a chunk of its own."""
    groups: dict[str, list[Sample]] = {}
    for item in samples:
        groups.setdefault(f"group:{item.group_id}" if item.group_id else f"sample:{item.id}", []).append(item)
    chunks: list[list[Sample]] = []
    for group in groups.values():
        if chunks and len(chunks[-1]) + len(group) <= size:
            chunks[-1] += group
        else:
            chunks.append(list(group))
    return chunks


def flat(
    chunks: list[list[Item]], present: Callable[[list[Item], A], list[R]], absent: Callable[[Item, Absence], R]
) -> Callable[[Sequence[A | Absence]], list[R]]:
    def read(replies: Sequence[A | Absence]) -> list[R]:
        found: list[R] = []
        for chunk, reply in zip(chunks, replies, strict=True):
            found += [absent(item, reply) for item in chunk] if isinstance(reply, Absence) else present(chunk, reply)
        return found

    return read


def checked(items: Sequence[Item], results: list[R], id_of: Callable[[R], str]) -> list[R]:
    if len(results) != len(items):
        raise broken_promise(f"{len(results)} outcomes for {len(items)} items")
    for item, result in zip(items, results, strict=True):
        if id_of(result) != item.id:
            raise broken_promise(f"outcome of {id_of(result)!r} in the place of {item.id!r}")
    return results


class _HasSampleId(Protocol):
    @property
    def sample_id(self) -> str: ...


def sample_id_of(result: _HasSampleId) -> str:
    return result.sample_id


def _scores(outcome: TokenLogProbsOutcome) -> TokenScores:
    return TokenScores.from_proto(outcome)


def _read_evaluations(chunk: list[Sample], reply: EvaluateResponse) -> Evaluations:
    evaluations = Evaluations.from_proto(reply)
    checked(chunk, list(evaluations.evaluations), sample_id_of)
    return evaluations


M = TypeVar("M", CompareRequest, CritiqueRequest, GradeRequest, RankRequest, ScoreSuffixesRequest, ScoreTokensRequest)


def extended_by(like: M, more: M) -> M:
    extended = type(like)()
    extended.CopyFrom(like)
    extended.MergeFrom(more)
    return extended
