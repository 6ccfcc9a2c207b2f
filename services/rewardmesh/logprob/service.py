"""LogProbService: token log-probabilities under named, versioned policies, ids in and ids out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

import numpy as np
import torch

from rewardmesh.engine.cached import TokenStatisticsCodec
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.log_probs import TokenStatistics
from rewardmesh.engine.versions import ModelStore, model_ref
from rewardmesh.logprob.config import LogProbConfig
from rewardmesh.logprob.queries import Lane, Query, compute, outside, to_work, token_ids, too_long, with_keys
from rewardmesh.logprob.statistics import to_message, wanted_extras
from rewardmesh.logprob.streams import LogitStreams
from rewardmesh.logprob.suffixes import PreparedPrefix, prefix_scores, prepare_prefix, read_suffixes
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.serving.caching import CachingBatcher
from rewardmesh.serving.context import CallContext, priority, remaining_s, tenant
from rewardmesh.serving.errors import invalid_argument, not_found
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api
from rewardmesh.v1 import log_prob_service_pb2_grpc as rpc

SERVICE = "rewardmesh.v1.LogProbService"
MAX_TOP_K = 1024
"""Most likely tokens a position; more would be the whole distribution, gigabytes for a long completion."""


class LogProbServicer(rpc.LogProbServiceServicer):
    """Scores token sequences under the policies it holds."""

    def __init__(self, config: LogProbConfig, stores: Sequence[ModelStore]) -> None:
        self._config = config
        self._stores = {store.name: store for store in stores}
        self._default = stores[0]
        batcher: Batcher[Query, TokenStatistics] = Batcher(
            lambda lane, queries: compute(cast(Lane, lane), queries),
            service=SERVICE,
            **config.batching(),
        )
        codec = TokenStatisticsCodec()
        self.batcher = CachingBatcher(batcher, codec, config.caching(), service=SERVICE, batch_invariant=config.batch_invariant)
        self.streams = LogitStreams(config, self.resolve, self.batcher.run)

    async def ScoreTokens(self, request: api.ScoreTokensRequest, context: CallContext) -> api.ScoreTokensResponse:
        """See the proto."""
        require_unique_ids((sequence.id for sequence in request.sequences), "sequences")
        if not 0 <= request.want.top_k <= MAX_TOP_K:
            raise invalid_argument("want.top_k", f"{request.want.top_k} must be from 0 to {MAX_TOP_K}")
        temperature, extras = read_temperature(request.temperature), wanted_extras(request.want)
        models = [self.resolve(ref) for ref in request.policies] or [self._default.active]
        lanes = [Lane(model, temperature, extras, request.want.top_k) for model in models]
        prepared = [(sequence, lane, *self._prepare(sequence, lane)) for sequence in request.sequences for lane in lanes]
        done = iter(await self._submit([work for _, _, work, problem in prepared if problem is None], context))
        outcomes = []
        for sequence, lane, work, problem in prepared:
            item: Done[TokenStatistics] = next(done) if problem is None else Done(None, problem)
            outcomes.append(self._outcome(sequence.id, lane, work, item, request.want))
        return api.ScoreTokensResponse(outcomes=outcomes)

    async def ScoreSuffixes(self, request: api.ScoreSuffixesRequest, context: CallContext) -> api.ScoreSuffixesResponse:
        """See the proto."""
        require_unique_ids((prefix.id for prefix in request.prefixes), "prefixes")
        if request.normalise not in api.SuffixNormalisation.values():
            raise invalid_argument("normalise", f"{request.normalise} is unknown; sum or mean")
        lane = Lane(self.resolve(request.policy), read_temperature(request.temperature))
        suffixes = read_suffixes(request, lane.model.vocabulary)
        # Prefixes times suffixes may be many: the event loop goes on meanwhile.
        prepared = await asyncio.to_thread(lambda: [prepare_prefix(prefix, suffixes, lane) for prefix in request.prefixes])
        done = await self._submit([work for prefix in prepared for work in prefix.works], context)
        outcomes, taken = [], 0
        for prefix in prepared:
            items = done[taken : taken + len(prefix.works)]
            taken += len(items)
            outcomes.append(self._suffix_outcome(prefix, lane, items, mean=request.normalise == api.SUFFIX_NORMALISATION_MEAN))
        return api.ScoreSuffixesResponse(outcomes=outcomes)

    async def StreamNextLogits(
        self, request_iterator: AsyncIterator[api.StreamNextLogitsRequest], context: CallContext
    ) -> AsyncIterator[api.StreamNextLogitsResponse]:
        """See the proto."""
        async with aclosing(self.streams.answer(request_iterator)) as replies:
            async for reply in replies:
                yield reply

    def resolve(self, ref: pb.ModelRef) -> ServedModel:
        """The policy version a request asks for; the default policy's active one when it names none."""
        if not ref.name:
            return self._default.resolve(ref)
        if ref.name not in self._stores:
            raise not_found("policy", ref.name, self._stores)
        return self._stores[ref.name].resolve(ref)

    async def _submit(self, works: Sequence[Work[Query]], context: CallContext) -> list[Done[TokenStatistics]]:
        keyed = with_keys(SERVICE, works)
        return await self.batcher.submit(keyed, priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context))

    def _prepare(self, sequence: api.TokenSequence, lane: Lane) -> tuple[Work[Query], pb.Absence | None]:
        try:
            query = Query(token_ids(sequence.prompt_ids, "prompt_ids"), token_ids(sequence.completion_ids, "completion_ids"))
        except ValueError as error:
            empty = np.empty(0, np.int32)
            return Work(Query(empty, empty), lane, "", 0), absence(pb.ABSENCE_REASON_INVALID_INPUT, str(error))
        work = to_work(query, lane)
        return work, self._problem(query, lane.model, work.tokens)

    def _problem(self, query: Query, model: ServedModel, tokens: int) -> pb.Absence | None:
        if not len(query.prompt):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, "prompt_ids: is empty; give at least the beginning-of-sequence token")
        if not len(query.completion):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, "completion_ids: is empty, there is nothing to score")
        for field, ids in (("prompt_ids", query.prompt), ("completion_ids", query.completion)):
            if wrong := outside(ids, field, model.vocabulary):
                return absence(pb.ABSENCE_REASON_INVALID_INPUT, wrong)
        return too_long(tokens, model)

    def _outcome(
        self, sequence_id: str, lane: Lane, work: Work[Query], item: Done[TokenStatistics], want: api.LogProbWants
    ) -> api.TokenLogProbsOutcome:
        outcome = api.TokenLogProbsOutcome(sequence_id=sequence_id, provenance=self._provenance(lane, work.tokens, [item]))
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

    def _suffix_outcome(
        self, prefix: PreparedPrefix, lane: Lane, items: Sequence[Done[TokenStatistics]], *, mean: bool
    ) -> api.SuffixScoresOutcome:
        outcome = api.SuffixScoresOutcome(prefix_id=prefix.id, provenance=self._provenance(lane, prefix.tokens, items))
        result = prefix.problem or prefix_scores(items, mean=mean)
        lost = result if isinstance(result, pb.Absence) else None
        if isinstance(result, pb.Absence):
            outcome.absence.CopyFrom(result)
        else:
            outcome.scores.CopyFrom(result)
        count_outcome(SERVICE, lane.model.name, lost)
        return outcome

    def _provenance(self, lane: Lane, tokens: int, items: Sequence[Done[TokenStatistics]]) -> pb.Provenance:
        """Of one outcome; one made of several items waited and computed as long as the slowest of them."""
        return pb.Provenance(
            service=SERVICE,
            model=model_ref(lane.model),
            replica=self._config.replica,
            cached=bool(items) and all(item.cached for item in items),
            queue_seconds=max((item.queue_seconds for item in items), default=0.0),
            compute_seconds=max((item.compute_seconds for item in items), default=0.0),
            tokens_read=tokens,
            tokens_computed=sum(item.tokens_computed for item in items),
        )


def read_temperature(temperature: float) -> float:
    """What divides the logits; 0 on the wire means 1."""
    if not temperature >= 0 or math.isinf(temperature):
        raise invalid_argument("temperature", f"{temperature} must be positive, or 0 for 1")
    return temperature or 1.0
