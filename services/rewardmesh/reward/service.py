"""RewardService: a reward model behind the pull batcher."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import torch

from rewardmesh.engine.budget import with_budget
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.versions import ModelStore, model_ref
from rewardmesh.reward.config import RewardConfig
from rewardmesh.reward.kserve import offer_kserve
from rewardmesh.reward.preparing import Prepared, parts, prepare
from rewardmesh.reward.scoring import SCALES, Objectives, compose
from rewardmesh.reward.tokens import Offsets, compute, token_values, with_tokens
from rewardmesh.serving import Server
from rewardmesh.serving.batching import Batcher, Done
from rewardmesh.serving.caching import CachingBatcher, FloatsCodec
from rewardmesh.serving.context import CallContext, priority, remaining_s, tenant
from rewardmesh.serving.errors import invalid_argument, unimplemented
from rewardmesh.serving.metrics import REWARD, count_outcomes
from rewardmesh.serving.streaming import stream_items
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc
from rewardmesh.v1 import reward_service_pb2 as api
from rewardmesh.v1 import reward_service_pb2_grpc as rpc

SERVICE = "rewardmesh.v1.RewardService"


class RewardServicer(rpc.RewardServiceServicer):
    """Scores samples with the active version of one model."""

    def __init__(self, config: RewardConfig, store: ModelStore, objectives: Objectives) -> None:
        apart = computed_apart(config, store.active)
        options = config.batching()
        options["batch_invariant"] = apart
        self._config = config
        self._store = store
        self._objectives = objectives
        batcher: Batcher[Any, list[float]] = Batcher(compute, service=SERVICE, **options)
        # One call after the other, so that the first is soon computed; as many as leave processors to compute with.
        self._tokenising = asyncio.Semaphore(max((os.cpu_count() or 1) // 2, 1))
        self.batcher = CachingBatcher(batcher, FloatsCodec(), config.caching(), service=SERVICE, batch_invariant=apart)

    async def Score(self, request: api.ScoreRequest, context: CallContext) -> api.ScoreResponse:
        """See the proto."""
        require_unique_ids((sample.id for sample in request.samples), "samples")
        return api.ScoreResponse(outcomes=await self._score(request.options, request.samples, context))

    async def StreamScores(
        self, requests: AsyncIterator[api.StreamScoresRequest], context: CallContext
    ) -> AsyncIterator[api.StreamScoresResponse]:
        """See the proto."""
        first = await anext(aiter(requests), None)
        if first is None:
            return
        options = first.options
        seen: set[str] = set()

        async def batches() -> AsyncIterator[Sequence[pb.Sample]]:
            yield first.samples
            async for message in requests:
                if message.HasField("options"):
                    raise invalid_argument("options", "may only be in the first message of a stream")
                yield message.samples

        async def answer(samples: Sequence[pb.Sample]) -> list[pb.Outcome]:
            require_unique_ids((*seen, *(sample.id for sample in samples)), "samples")
            seen.update(sample.id for sample in samples)
            return await self._score(options, samples, context)

        async with aclosing(stream_items(batches(), answer)) as answers:
            async for outcomes in answers:
                for outcome in outcomes:
                    yield api.StreamScoresResponse(outcome=outcome)

    async def _score(self, options: api.ScoreOptions, samples: Sequence[pb.Sample], context: CallContext) -> list[pb.Outcome]:
        model = self._store.resolve(options.model if options.HasField("model") else None)
        weights = self._objectives.resolve(options.objective_weights)
        self._refuse_unsupported(options, model)
        # What would be refused afterwards is refused before it is tokenised: under overload that is most of the work.
        self.batcher.check(priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context))
        outcomes = []
        observed, absences = REWARD.labels(model.name), []
        answers = await self._answers(model, samples, context, tokens=options.want.tokens)
        for sample, (ready, offsets, item) in zip(samples, answers, strict=True):
            lost = item.absence
            outcome = pb.Outcome(sample_id=sample.id, provenance=self._provenance(model, item, ready))
            if item.result is not None:
                reward = self._reward(item.result, weights, offsets, tokens=options.want.tokens)
                if isinstance(reward, pb.Absence):
                    lost = reward
                else:
                    outcome.reward.CopyFrom(reward)
                    observed.observe(reward.value)
            if lost is not None:
                outcome.absence.CopyFrom(lost)
            absences.append(lost)
            outcomes.append(outcome)
        count_outcomes(SERVICE, model.name, absences)
        return outcomes

    def _reward(
        self, result: list[float], weights: Mapping[str, float], offsets: Offsets | None, *, tokens: bool
    ) -> pb.Reward | pb.Absence:
        """A Reward of the head's outputs at the last token, or with `tokens` at every answer token one after the other; or NON_FINITE."""
        width = len(self._objectives.names) or 1
        reward = compose(result[-width:], self._objectives, weights, SCALES[self._config.scale])
        if not tokens or isinstance(reward, pb.Absence):
            return reward
        rows = [result[start : start + width] for start in range(0, len(result), width)]
        values = token_values(rows, [weights[name] for name in self._objectives.names] or [1.0], offsets)
        if values is None:
            return absence(pb.ABSENCE_REASON_NON_FINITE, "the model computed NaN or infinity at a token of the answer")
        reward.tokens.CopyFrom(values)
        return reward

    async def _answers(
        self, model: ServedModel, samples: Sequence[pb.Sample], context: CallContext, *, tokens: bool
    ) -> list[tuple[Prepared, Offsets | None, Done[list[float]]]]:
        """Tokenise and compute; while nothing waits, the first part of a call is computed as the next ones are tokenised."""
        waiting, _ = self.batcher.load()
        computing: list[asyncio.Task[list[tuple[Prepared, Offsets | None, Done[list[float]]]]]] = []

        def ready(part: Sequence[pb.Sample]) -> list[tuple[Prepared, Offsets | None]]:
            prepared = prepare(model, part, SERVICE, self._config.overlength)
            return with_tokens(model, SERVICE, part, prepared) if tokens else [(item, None) for item in prepared]

        try:
            for part in [samples] if waiting else parts(samples):
                async with self._tokenising:
                    prepared = await asyncio.to_thread(ready, part)
                computing.append(asyncio.create_task(self._compute(prepared, context)))
            return [answer for answers in await asyncio.gather(*computing) for answer in answers]
        finally:
            for task in computing:
                task.cancel()
            await asyncio.gather(*computing, return_exceptions=True)

    async def _compute(
        self, prepared: Sequence[tuple[Prepared, Offsets | None]], context: CallContext
    ) -> list[tuple[Prepared, Offsets | None, Done[list[float]]]]:
        works = [item.work for item, _ in prepared if item.problem is None]
        done = iter(await self.batcher.submit(works, priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context)))
        return [(item, offsets, next(done) if item.problem is None else Done(None, item.problem)) for item, offsets in prepared]

    def _provenance(self, model: ServedModel, item: Done[list[float]], ready: Prepared) -> pb.Provenance:
        return pb.Provenance(
            service=SERVICE,
            model=model_ref(model),
            replica=self._config.replica,
            cached=item.cached,
            queue_seconds=item.queue_seconds,
            compute_seconds=item.compute_seconds,
            tokens_read=ready.work.tokens,
            tokens_computed=item.tokens_computed,
            truncated=ready.truncated,
        )

    def _refuse_unsupported(self, options: api.ScoreOptions, model: ServedModel) -> None:
        for name in ("spread", "quantiles", "spans", "rationale", "embedding"):
            if getattr(options.want, name):
                raise unimplemented(f"options.want.{name}")
        if options.want.tokens and "token_scores" not in model.abilities:
            raise unimplemented(f"options.want.tokens with the {model.engine} engine, which scores whole answers")
        if options.HasField("reference_policy"):
            raise unimplemented("options.reference_policy (a log-ratio reward)")
        if options.samples_per_item > 1:
            raise unimplemented("options.samples_per_item above 1 (a generative reward model)")


def computed_apart(config: RewardConfig, model: ServedModel) -> bool:
    """Whether groups are computed one by one, because nothing else keeps the batch out of the last bit of a score."""
    return config.batch_invariant and not model.batch_invariant


async def create_server(config: RewardConfig) -> Server:
    """Load the model and build the server; raises LoadError when the model cannot be served."""
    if config.threads:
        torch.set_num_threads(config.threads)

    def load(path: str, version: int) -> ServedModel:
        return open_model(config, "classification", "scores", path=path, version=version)

    first = await asyncio.to_thread(load, config.model, 1)
    config = await asyncio.to_thread(with_budget, config, first, "scores")
    objectives = Objectives.of(first, config.objectives, config.objective_weights)

    def load_next(path: str, version: int) -> ServedModel:
        model = load(path, version)
        objectives.check(model)
        if computed_apart(config, model) and not computed_apart(config, first):
            raise LoadError(f"{path}: cannot keep the promise of batch_invariant: it is computed by torch ({model.computed_by_reason})")
        return model

    store = ModelStore(SERVICE, first, load_next)
    servicer = RewardServicer(config, store, objectives)
    capabilities = model_service_pb2.Capabilities(
        outputs=["value", *(["objectives"] if objectives.names else []), *(["tokens"] if "token_scores" in first.abilities else [])],
        objectives=objectives.names,
        scale=pb.Scale(kind=SCALES[config.scale]),
        batch_budget_tokens=config.budget_tokens,
        batch_invariant=config.batch_invariant,
        overlength=model_service_pb2.OverlengthPolicy.Value(f"OVERLENGTH_POLICY_{config.overlength.upper()}"),
    )
    server = Server(config, "reward", load=servicer.batcher.load)
    server.add_service(SERVICE, rpc.add_RewardServiceServicer_to_server, servicer)
    server.add_service(MODEL_SERVICE, model_service_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer([store], capabilities))
    offer_kserve(server, servicer.Score, store, len(objectives.names) or 1)
    server.on_stop(servicer.batcher.close)
    return server
