"""LogProbService: token log-probabilities under named, versioned policies, ids in and ids out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.log_probs import TokenStatistics
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.versions import ModelStore, model_ref
from rewardmesh.logprob.config import LogProbConfig
from rewardmesh.serving import Server
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.serving.context import CallContext, priority, remaining_s
from rewardmesh.serving.errors import invalid_argument, not_found, unimplemented
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api
from rewardmesh.v1 import log_prob_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc

SERVICE = "rewardmesh.v1.LogProbService"

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Query:
    prompt: Ids
    completion: Ids


@dataclass(frozen=True)
class _Lane:
    """What is computed together: one policy version with one set of options."""

    model: ServedModel
    temperature: float
    extras: bool
    top_k: int


class LogProbServicer(rpc.LogProbServiceServicer):
    """Scores token sequences under the policies it holds."""

    def __init__(self, config: LogProbConfig, stores: Sequence[ModelStore]) -> None:
        self._config = config
        self._stores = {store.name: store for store in stores}
        self._default = stores[0]
        self.batcher: Batcher[_Query, TokenStatistics] = Batcher(
            lambda lane, queries: compute(cast(_Lane, lane), queries),
            service=SERVICE,
            budget_tokens=config.budget_tokens,
            max_queue_tokens=config.max_queue_tokens,
            batch_invariant=config.batch_invariant,
        )

    async def ScoreTokens(self, request: api.ScoreTokensRequest, context: CallContext) -> api.ScoreTokensResponse:
        """See the proto."""
        require_unique_ids((sequence.id for sequence in request.sequences), "sequences")
        if not request.temperature >= 0 or request.temperature == float("inf"):
            raise invalid_argument("temperature", f"{request.temperature} must be positive, or 0 for 1")
        if request.want.top_k < 0:
            raise invalid_argument("want.top_k", "must not be negative")
        models = [self._resolve(ref) for ref in request.policies] or [self._default.active]
        extras = request.want.entropy or request.want.self_certainty or request.want.margin
        lanes = [_Lane(model, request.temperature or 1.0, extras, request.want.top_k) for model in models]
        prepared = [(sequence, lane, *self._prepare(sequence, lane)) for sequence in request.sequences for lane in lanes]
        works = [work for _, _, work, problem in prepared if problem is None]
        done = iter(await self.batcher.submit(works, priority=priority(context), timeout_s=remaining_s(context)))
        outcomes = []
        for sequence, lane, work, problem in prepared:
            item: Done[TokenStatistics] = next(done) if problem is None else Done(None, problem)
            outcomes.append(self._outcome(sequence.id, lane, work, item, request.want))
        return api.ScoreTokensResponse(outcomes=outcomes)

    async def ScoreSuffixes(self, request: api.ScoreSuffixesRequest, context: CallContext) -> api.ScoreSuffixesResponse:
        """See the proto."""
        raise unimplemented("LogProbService.ScoreSuffixes")

    async def StreamNextLogits(
        self, request_iterator: AsyncIterator[api.StreamNextLogitsRequest], context: CallContext
    ) -> AsyncIterator[api.StreamNextLogitsResponse]:
        """See the proto."""
        raise unimplemented("LogProbService.StreamNextLogits")
        yield  # makes this an asynchronous generator, as a streaming handler must be

    def _resolve(self, ref: pb.ModelRef) -> ServedModel:
        if not ref.name:
            return self._default.resolve(ref)
        if ref.name not in self._stores:
            raise not_found("policy", ref.name, self._stores)
        return self._stores[ref.name].resolve(ref)

    def _prepare(self, sequence: api.TokenSequence, lane: _Lane) -> tuple[Work[_Query], pb.Absence | None]:
        try:
            query = _Query(token_ids(sequence.prompt_ids, "prompt_ids"), token_ids(sequence.completion_ids, "completion_ids"))
        except ValueError as error:
            empty = np.empty(0, np.int32)
            return Work(_Query(empty, empty), lane, "", 0), absence(pb.ABSENCE_REASON_INVALID_INPUT, str(error))
        shared = lane.model.shareable(len(query.prompt))
        work = Work(query, lane, query.prompt.tobytes(), len(query.prompt) + len(query.completion), shared_tokens=shared)
        return work, self._problem(query, lane.model, work.tokens)

    def _problem(self, query: _Query, model: ServedModel, tokens: int) -> pb.Absence | None:
        if not len(query.prompt):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, "prompt_ids: is empty; give at least the beginning-of-sequence token")
        if not len(query.completion):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, "completion_ids: is empty, there is nothing to score")
        vocabulary = model.vocabulary
        for field, ids in (("prompt_ids", query.prompt), ("completion_ids", query.completion)):
            if ids.min() < 0 or ids.max() >= vocabulary:
                return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}: a token id lies outside the vocabulary of {vocabulary}")
        if tokens > model.max_tokens:
            # Cutting tokens would change the log-probabilities of those that stay.
            return absence(pb.ABSENCE_REASON_TOO_LONG, f"{tokens} tokens, the policy takes {model.max_tokens}")
        return None

    def _outcome(
        self, sequence_id: str, lane: _Lane, work: Work[_Query], item: Done[TokenStatistics], want: api.LogProbWants
    ) -> api.TokenLogProbsOutcome:
        provenance = pb.Provenance(
            service=SERVICE,
            model=model_ref(lane.model),
            replica=self._config.replica,
            queue_seconds=item.queue_seconds,
            compute_seconds=item.compute_seconds,
            tokens_read=work.tokens,
            tokens_computed=item.tokens_computed,
        )
        outcome = api.TokenLogProbsOutcome(sequence_id=sequence_id, provenance=provenance)
        lost = item.absence
        if item.result is not None:
            if bool(torch.isfinite(item.result.log_probs).all()):
                outcome.log_probs.CopyFrom(to_message(item.result, want))
            else:
                lost = absence(pb.ABSENCE_REASON_NON_FINITE, "the policy computed NaN or infinity")
        if lost is not None:
            outcome.absence.CopyFrom(lost)
        count_outcome(SERVICE, lane.model.name, lost)
        return outcome


def compute(lane: _Lane, queries: Sequence[_Query]) -> list[tuple[TokenStatistics, int]]:
    """Statistics of each query's completion tokens and the tokens computed for it; runs on the engine's thread."""
    pairs = [(query.prompt, query.completion) for query in queries]
    return lane.model.token_statistics(pairs, temperature=lane.temperature, extras=lane.extras, top_k=lane.top_k)


def to_message(stats: TokenStatistics, want: api.LogProbWants) -> api.TokenLogProbs:
    """The wire form of one completion's statistics; only what was asked for."""
    message = api.TokenLogProbs(log_probs=floats(stats.log_probs), sum=float(stats.log_probs.double().sum()))
    for name in ("entropy", "self_certainty", "margin"):
        if getattr(want, name):
            getattr(message, name).CopyFrom(floats(getattr(stats, name)))
    if stats.top_ids is not None and stats.top_log_probs is not None:
        ids = stats.top_ids.to(torch.int32).numpy()
        message.top.CopyFrom(
            api.TopTokens(
                k=ids.shape[1], ids=pb.Int32Array(data=ids.astype("<i4").tobytes(), length=ids.size), log_probs=floats(stats.top_log_probs)
            )
        )
    return message


def floats(values: torch.Tensor) -> pb.Float32Array:
    """A tensor as little-endian float32."""
    array = values.numpy().astype("<f4")
    return pb.Float32Array(data=array.tobytes(), length=array.size)


def token_ids(message: pb.Int32Array, field: str) -> Ids:
    """int32 ids of a message; ValueError when the stated length is not the data's."""
    if len(message.data) != 4 * message.length:
        raise ValueError(f"{field}: states {message.length} values, holds {len(message.data)} bytes")
    return np.frombuffer(message.data, "<i4").astype(np.int32)


async def create_server(config: LogProbConfig) -> Server:
    """Load the policies and build the server; raises LoadError when one cannot be served."""
    if config.threads:
        torch.set_num_threads(config.threads)

    async def store(name: str, source: str) -> ModelStore:
        def load(path: str, version: int) -> ServedModel:
            return open_model(config, "causal", "token_statistics", path=path, version=version, name=name)

        return ModelStore(SERVICE, await asyncio.to_thread(load, source, 1), load)

    policies: dict[str, str] = {config.name: config.model, **config.policies}
    stores = [await store(name, source) for name, source in policies.items()]
    servicer = LogProbServicer(config, stores)
    capabilities = model_service_pb2.Capabilities(
        outputs=["log_probs", "entropy", "self_certainty", "margin", "top_k"],
        scale=pb.Scale(kind=pb.SCALE_KIND_LOG_PROB),
        batch_budget_tokens=config.budget_tokens,
        batch_invariant=config.batch_invariant,
        overlength=model_service_pb2.OVERLENGTH_POLICY_REFUSE,
    )
    server = Server(config, "logprob", load=servicer.batcher.load)
    server.add_service(SERVICE, rpc.add_LogProbServiceServicer_to_server, servicer)
    server.add_service(MODEL_SERVICE, model_service_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer(stores, capabilities))
    server.on_stop(servicer.batcher.close)
    return server
