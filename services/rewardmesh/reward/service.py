"""RewardService: a reward model behind the pull batcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import cast

import torch

from rewardmesh.engine.budget import with_budget
from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.packing import common_prefix
from rewardmesh.engine.text import dialogue_ids, fit, prompt_ids
from rewardmesh.engine.versions import ModelStore, model_ref
from rewardmesh.reward.config import RewardConfig
from rewardmesh.reward.kserve import offer_kserve
from rewardmesh.reward.raw import prefix_groups, raw_group, raw_ids, raw_prompt_ids
from rewardmesh.reward.scoring import SCALES, Objectives, compose
from rewardmesh.serving import Server
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.serving.caching import CachingBatcher, FloatsCodec, KeyMaker
from rewardmesh.serving.context import CallContext, priority, remaining_s, tenant
from rewardmesh.serving.errors import invalid_argument, unimplemented
from rewardmesh.serving.metrics import REWARD, count_outcome
from rewardmesh.serving.raw import is_raw, raw_problem
from rewardmesh.serving.streaming import stream_items
from rewardmesh.serving.validation import absence, require_unique_ids, sample_problem
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc
from rewardmesh.v1 import reward_service_pb2 as api
from rewardmesh.v1 import reward_service_pb2_grpc as rpc

SERVICE = "rewardmesh.v1.RewardService"


@dataclass(frozen=True)
class _Prepared:
    """A sample as the engine takes it, or the problem that keeps it out."""

    work: Work[list[int]]
    truncated: bool
    problem: pb.Absence | None


class RewardServicer(rpc.RewardServiceServicer):
    """Scores samples with the active version of one model."""

    def __init__(self, config: RewardConfig, store: ModelStore, objectives: Objectives) -> None:
        self._config = config
        self._store = store
        self._objectives = objectives
        batcher: Batcher[list[int], list[float]] = Batcher(
            lambda lane, payloads: cast(ServedModel, lane).scores(payloads),
            service=SERVICE,
            **config.batching(),
        )
        self.batcher = CachingBatcher(batcher, FloatsCodec(), config.caching(), service=SERVICE, batch_invariant=config.batch_invariant)

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
        self._refuse_unsupported(options)
        # What would be refused afterwards is refused before it is tokenised: under overload that is most of the work.
        self.batcher.check(priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context))
        prepared = await asyncio.to_thread(self._prepare, model, samples)
        works = [item.work for item in prepared if item.problem is None]
        done = iter(await self.batcher.submit(works, priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context)))
        outcomes = []
        for sample, ready in zip(samples, prepared, strict=True):
            item: Done[list[float]] = next(done) if ready.problem is None else Done(None, ready.problem)
            lost = item.absence
            outcome = pb.Outcome(sample_id=sample.id, provenance=self._provenance(model, item, ready))
            if item.result is not None:
                reward = compose(item.result, self._objectives, weights, SCALES[self._config.scale])
                if isinstance(reward, pb.Absence):
                    lost = reward
                else:
                    outcome.reward.CopyFrom(reward)
                    REWARD.labels(model.name).observe(reward.value)
            if lost is not None:
                outcome.absence.CopyFrom(lost)
            count_outcome(SERVICE, model.name, lost)
            outcomes.append(outcome)
        return outcomes

    def _prepare(self, model: ServedModel, samples: Sequence[pb.Sample]) -> list[_Prepared]:
        prompts: dict[bytes, list[int]] = {}
        keys = model_keys(SERVICE, model, "scores")
        prepared = [self._prepare_one(model, sample, prompts, keys) for sample in samples]
        whole = [at for at, (sample, ready) in enumerate(zip(samples, prepared, strict=True)) if _whole_text(sample, ready)]
        for at, (group, shared) in zip(whole, prefix_groups([prepared[at].work.payload for at in whole]), strict=True):
            prepared[at] = replace(prepared[at], work=replace(prepared[at].work, group=group, shared_tokens=model.shareable(shared)))
        return prepared

    def _prepare_one(self, model: ServedModel, sample: pb.Sample, prompts: dict[bytes, list[int]], keys: KeyMaker) -> _Prepared:
        """Tokenise a sample; `prompts` remembers each prompt's token ids for the samples that share it."""
        raw = is_raw(sample)
        problem = raw_problem(sample, model.vocabulary) if raw else sample_problem(sample)
        if problem is not None:
            return _Prepared(Work([], model, "", 0), False, problem)
        tokenizer = model.tokenizer
        ids = raw_ids(tokenizer, sample) if raw else dialogue_ids(tokenizer, sample.prompt, sample.completion.text)
        if not ids:
            return _Prepared(Work([], model, "", 0), False, absence(pb.ABSENCE_REASON_INVALID_INPUT, "the text has no tokens"))
        key = raw_group(sample) if raw else b"".join(message.SerializeToString(deterministic=True) for message in sample.prompt)
        if key not in prompts:
            prompts[key] = raw_prompt_ids(tokenizer, sample) if raw else prompt_ids(tokenizer, sample.prompt)
        shared = common_prefix(prompts[key], ids)
        fitted = fit(ids, model.max_tokens, self._config.overlength, keep=len(ids) - shared)
        if isinstance(fitted, pb.Absence):
            return _Prepared(Work([], model, key, len(ids)), False, fitted)
        fitting, cut = fitted
        # Inputs that were cut begin at different tokens: they share nothing.
        sharing = 0 if cut else model.shareable(shared)
        return _Prepared(Work(fitting, model, key, len(fitting), shared_tokens=sharing, key=keys.key(fitting)), cut, None)

    def _provenance(self, model: ServedModel, item: Done[list[float]], ready: _Prepared) -> pb.Provenance:
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

    def _refuse_unsupported(self, options: api.ScoreOptions) -> None:
        for name in ("spread", "quantiles", "tokens", "spans", "rationale", "embedding"):
            if getattr(options.want, name):
                raise unimplemented(f"options.want.{name}")
        if options.HasField("reference_policy"):
            raise unimplemented("options.reference_policy (a log-ratio reward)")
        if options.samples_per_item > 1:
            raise unimplemented("options.samples_per_item above 1 (a generative reward model)")


def _whole_text(sample: pb.Sample, ready: _Prepared) -> bool:
    """Whether the sample is raw and its prompt was not told apart; a cut text begins anywhere and shares nothing."""
    return is_raw(sample) and not sample.prompt and ready.problem is None and not ready.truncated


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
        return model

    store = ModelStore(SERVICE, first, load_next)
    servicer = RewardServicer(config, store, objectives)
    capabilities = model_service_pb2.Capabilities(
        outputs=["value", "objectives"] if objectives.names else ["value"],
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
