"""JudgeService: a language model behind the pull batcher that compares, ranks and grades answers."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from rewardmesh.engine.budget import with_budget
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.versions import ModelStore
from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.labels import Labels
from rewardmesh.judge.library import Library
from rewardmesh.judge.questions import Answer, Item, Payload, Writer, answers, read_labels, works
from rewardmesh.judge.ranking import rank
from rewardmesh.judge.template import Criterion, JudgeTemplate, judged_fingerprint
from rewardmesh.judge.verdicts import grades, preference
from rewardmesh.serving import Server
from rewardmesh.serving.batching import Batcher
from rewardmesh.serving.caching import CachingBatcher, FloatsCodec
from rewardmesh.serving.context import CallContext, priority, remaining_s, tenant
from rewardmesh.serving.errors import failed_precondition, invalid_argument, unimplemented
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc

SERVICE = "rewardmesh.v1.JudgeService"


class JudgeServicer(rpc.JudgeServiceServicer):
    """Judges with the active version of one model; must be made inside a running event loop."""

    def __init__(self, config: JudgeConfig, store: ModelStore, library: Library, labels: Labels) -> None:
        self._config = config
        self._store = store
        self._library = library
        self._labels = labels
        batcher: Batcher[Payload, list[float]] = Batcher(
            read_labels,
            service=SERVICE,
            **config.batching(),
        )
        self.batcher = CachingBatcher(batcher, FloatsCodec(), config.caching(), service=SERVICE, batch_invariant=config.batch_invariant)

    async def Compare(self, request: api.CompareRequest, context: CallContext) -> api.CompareResponse:
        """See the proto."""
        require_unique_ids((pair.id for pair in request.pairs), "pairs")
        _refuse_votes(request)
        if request.orders not in api.CompareOrders.values():
            raise invalid_argument("orders", f"unknown value {request.orders}")
        both = request.orders != api.COMPARE_ORDERS_AS_GIVEN
        template = self._library.get("compare", request.template)
        model, reference = self._resolve(request, template)

        def write(writer: Writer) -> list[Item]:
            return [writer.pair(p.prompt, p.a.text, p.b.text, p.references, p.context, both_orders=both) for p in request.pairs]

        outcomes = []
        for pair, answer in zip(request.pairs, await self._ask(model, template, write, context), strict=True):
            outcome = api.PreferenceOutcome(pair_id=pair.id, provenance=self._provenance(reference, [answer]))
            if answer.absence:
                outcome.absence.CopyFrom(answer.absence)
            else:
                given, *swapped = answer.probabilities
                outcome.preference.CopyFrom(preference(given, swapped[0] if swapped else None))
            count_outcome(SERVICE, model.name, answer.absence)
            outcomes.append(outcome)
        return api.CompareResponse(outcomes=outcomes)

    async def Rank(self, request: api.RankRequest, context: CallContext) -> api.RankResponse:
        """See the proto. All pairs in both orders, once: the verdict on an order is a probability, repeating it tells nothing new."""
        require_unique_ids((group.id for group in request.groups), "groups")
        if request.method not in api.RankMethod.values():
            raise invalid_argument("method", f"unknown value {request.method}")
        if request.method not in (api.RANK_METHOD_UNSPECIFIED, api.RANK_METHOD_ALL_PAIRS):
            raise unimplemented(f"method {api.RankMethod.Name(request.method)}")
        if request.repeats < 0:
            raise invalid_argument("repeats", f"must be at least 1 (0 means 1), is {request.repeats}")
        if request.repeats > 1:
            raise unimplemented("repeats above 1 (both orders of every pair are always shown)")
        template = self._library.get("compare", request.template)
        model, reference = self._resolve(request, template)

        def write(writer: Writer) -> list[Item]:
            return [
                writer.pair(group.prompt, a.text, b.text, group.references, group.context, both_orders=True)
                for group in request.groups
                for a, b in itertools.combinations(group.completions, 2)
            ]

        verdicts = iter(await self._ask(model, template, write, context))
        outcomes = []
        for group in request.groups:
            size = len(group.completions)
            found = list(itertools.islice(verdicts, math.comb(size, 2)))
            result = rank(size, found)
            outcome = api.RankingOutcome(group_id=group.id, provenance=self._provenance(reference, found))
            lost = result if isinstance(result, pb.Absence) else None
            if isinstance(result, pb.Absence):
                outcome.absence.CopyFrom(result)
            else:
                outcome.ranking.CopyFrom(result)
            count_outcome(SERVICE, model.name, lost)
            outcomes.append(outcome)
        return api.RankResponse(outcomes=outcomes)

    async def Grade(self, request: api.GradeRequest, context: CallContext) -> api.GradeResponse:
        """See the proto. A rubric is the name of a grade template; its own criteria come before the sample's."""
        require_unique_ids((sample.id for sample in request.samples), "samples")
        _refuse_votes(request)
        template = self._library.get("grade", request.rubric)
        model, reference = self._resolve(request, template)
        criteria = [_criteria(template, sample.context) for sample in request.samples]

        def write(writer: Writer) -> list[Item]:
            return [
                Item((), "", wanted) if isinstance(wanted, pb.Absence) else writer.sample(sample, wanted)
                for sample, wanted in zip(request.samples, criteria, strict=True)
            ]

        outcomes = []
        given = await self._ask(model, template, write, context)
        for sample, wanted, answer in zip(request.samples, criteria, given, strict=True):
            outcome = api.GradesOutcome(sample_id=sample.id, provenance=self._provenance(reference, [answer]))
            if answer.absence:
                outcome.absence.CopyFrom(answer.absence)
            elif not isinstance(wanted, pb.Absence):
                outcome.grades.CopyFrom(grades(template, wanted, answer.probabilities))
            count_outcome(SERVICE, model.name, answer.absence)
            outcomes.append(outcome)
        return api.GradeResponse(outcomes=outcomes)

    async def Critique(self, request: api.CritiqueRequest, context: CallContext) -> api.CritiqueResponse:
        """See the proto."""
        raise unimplemented("Critique")

    async def _ask(
        self, model: ServedModel, template: JudgeTemplate, write: Callable[[Writer], list[Item]], context: CallContext
    ) -> list[Answer]:
        label_ids = self._labels.of(model, template)
        if isinstance(label_ids, str):
            raise failed_precondition(label_ids)
        self.batcher.check(priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context))
        items = await asyncio.to_thread(write, Writer(model, template, self._labels))
        submitted = works(SERVICE, model, label_ids, items)
        done = await self.batcher.submit(submitted, priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context))
        return answers(items, done, self._config.min_label_mass)

    def _resolve(
        self, request: api.CompareRequest | api.RankRequest | api.GradeRequest, template: JudgeTemplate
    ) -> tuple[ServedModel, pb.ModelRef]:
        """The version that answers, and how it is named: its fingerprint includes the template's."""
        wanted = request.model
        model = self._store.resolve(pb.ModelRef(name=wanted.name, version=wanted.version))
        judged = judged_fingerprint(model.fingerprint, template.fingerprint)
        if wanted.fingerprint and wanted.fingerprint not in (judged, model.fingerprint):
            raise failed_precondition(
                f"model {model.name!r} version {model.version} with {template.name!r} has fingerprint {judged}, not {wanted.fingerprint}"
            )
        return model, pb.ModelRef(name=model.name, version=model.version, fingerprint=judged)

    def _provenance(self, reference: pb.ModelRef, parts: Sequence[Answer]) -> pb.Provenance:
        return pb.Provenance(
            service=SERVICE,
            model=reference,
            replica=self._config.replica,
            cached=bool(parts) and all(part.cached for part in parts),
            queue_seconds=max((part.queue_seconds for part in parts), default=0.0),
            compute_seconds=max((part.compute_seconds for part in parts), default=0.0),
            tokens_read=sum(part.tokens_read for part in parts),
            tokens_computed=sum(part.tokens_computed for part in parts),
        )


async def create_server(config: JudgeConfig) -> Server:
    """Load model and templates and build the server.

    Raises:
        ConfigError: a mistake in a template or a default.
        LoadError: a model that cannot be served, or whose vocabulary lacks a configured template's label.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    library = Library(config)
    labels = Labels(library.templates.values(), library.required)

    def load(path: str, version: int) -> ServedModel:
        model = open_model(config, "causal", "label_log_probs", path=path, version=version)
        labels.check(model)
        return model

    first = await asyncio.to_thread(load, config.model, 1)
    if all(isinstance(labels.of(first, template), str) for template in library.templates.values()):
        raise LoadError(f"{config.model}: no template can be used with it: {labels.of(first, library.get('compare', ''))}")
    config = await asyncio.to_thread(with_budget, config, first, "label_log_probs")
    store = ModelStore(SERVICE, first, load)
    servicer = JudgeServicer(config, store, library, labels)
    capabilities = model_service_pb2.Capabilities(
        outputs=["preference", "grades"],
        scale=pb.Scale(kind=pb.SCALE_KIND_PROBABILITY),
        batch_budget_tokens=config.budget_tokens,
        batch_invariant=config.batch_invariant,
        overlength=model_service_pb2.OVERLENGTH_POLICY_REFUSE,
    )
    server = Server(config, "judge", load=servicer.batcher.load)
    server.add_service(SERVICE, rpc.add_JudgeServiceServicer_to_server, servicer)
    server.add_service(MODEL_SERVICE, model_service_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer([store], capabilities))
    server.on_stop(servicer.batcher.close)
    return server


def _refuse_votes(request: api.CompareRequest | api.GradeRequest) -> None:
    if request.votes < 0:
        raise invalid_argument("votes", f"must be at least 0, is {request.votes}")
    if request.votes:
        raise unimplemented("votes above 0 (0 reads the probability of the labels, which needs no sampling)")
    if request.want_rationale:
        raise unimplemented("want_rationale")


def _criteria(template: JudgeTemplate, context: pb.Context) -> list[Criterion] | pb.Absence:
    """What a sample is graded by."""
    if not template.per_criterion:
        return [Criterion(template.name, "")]
    found: Mapping[str, Criterion] = {criterion.id: criterion for criterion in template.criteria}
    for index, given in enumerate(context.criteria):
        field = f"context.criteria[{index}]"
        if not given.id or given.id in found:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}.id: {given.id!r} is empty or taken")
        if not given.text:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}.text: is empty")
        if given.weight < 0 or not math.isfinite(given.weight):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}.weight: must be greater than 0, or 0 for 1; is {given.weight}")
        found = {**found, given.id: Criterion(given.id, given.text, given.weight or 1.0)}
    if not found:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"context.criteria: has none, and neither has rubric {template.name!r}")
    return list(found.values())
