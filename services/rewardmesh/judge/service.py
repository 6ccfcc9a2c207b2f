"""JudgeService: a language model behind the pull batcher that compares, ranks, grades and criticises answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch

from rewardmesh.engine.budget import with_budget
from rewardmesh.engine.interface import Ability, ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.judge.audits import AuditedStore, Gate
from rewardmesh.judge.bench import SERVICE, Bench
from rewardmesh.judge.compare import compare
from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.critique import critique
from rewardmesh.judge.grade import grade
from rewardmesh.judge.labels import Labels
from rewardmesh.judge.library import Library
from rewardmesh.judge.rank import rank
from rewardmesh.judge.session import Desk
from rewardmesh.serving import Server
from rewardmesh.serving.context import CallContext
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc


class JudgeServicer(rpc.JudgeServiceServicer):
    """Judges with the active version of one model; see the proto for its calls."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def Compare(self, request: api.CompareRequest, context: CallContext) -> api.CompareResponse:
        return await compare(self.bench, request, context)

    async def Rank(self, request: api.RankRequest, context: CallContext) -> api.RankResponse:
        return await rank(self.bench, request, context)

    async def Grade(self, request: api.GradeRequest, context: CallContext) -> api.GradeResponse:
        return await grade(self.bench, request, context)

    async def Critique(self, request: api.CritiqueRequest, context: CallContext) -> api.CritiqueResponse:
        return await critique(self.bench, request, context)


async def create_server(config: JudgeConfig) -> Server:
    """Load model and prompts and build the server; must run inside the event loop that serves.

    Raises:
        ConfigError: a mistake in a template, a constitution or a default.
        LoadError: a model that cannot be served, that cannot be asked with a configured template, or that has not passed its audit.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    library = Library(config)
    labels = Labels(library.templates.values(), library.required)
    gate = Gate(Path(config.audits) if config.require_audit else None, library.get("compare", ""))

    # An endpoint that gives no log-probabilities can still write its verdicts.
    needed: Ability = "write" if config.engine == "openai" else "label_log_probs"

    def load(path: str, version: int) -> ServedModel:
        model = open_model(config, "causal", needed, path=path, version=version)
        labels.check(model)
        gate.check(model)
        return model

    first = await asyncio.to_thread(load, config.model, 1)
    defaults = [labels.of(first, library.get(kind, "")) for kind in ("compare", "grade")]
    if all(isinstance(reason, str) for reason in defaults):
        raise LoadError(f"{config.model}: no default template can be used with it: {defaults[0]}")
    config = await asyncio.to_thread(with_budget, config, first, "label_log_probs")
    store = AuditedStore(SERVICE, first, load, gate)
    bench = Bench(config, store, library, labels, gate, Desk(config, SERVICE))
    capabilities = model_service_pb2.Capabilities(
        outputs=["preference", "grades", *(["critique"] if "write" in first.abilities else [])],
        scale=pb.Scale(kind=pb.SCALE_KIND_PROBABILITY),
        batch_budget_tokens=config.budget_tokens,
        batch_invariant=config.batch_invariant,
        overlength=model_service_pb2.OVERLENGTH_POLICY_REFUSE,
    )
    server = Server(config, "judge", load=bench.desk.load)
    server.add_service(SERVICE, rpc.add_JudgeServiceServicer_to_server, JudgeServicer(bench))
    server.add_service(MODEL_SERVICE, model_service_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer([store], capabilities))
    server.on_stop(bench.desk.close)
    return server
