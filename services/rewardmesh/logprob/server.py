"""Builds a log-prob server: policies, adapters on them, service and model service."""

from __future__ import annotations

import asyncio
from typing import cast

import torch

from rewardmesh.engine.adapters import AdaptedModel, open_adapter, share
from rewardmesh.engine.budget import with_budget
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadedModel, LoadError
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.versions import ModelStore
from rewardmesh.logprob.config import LogProbConfig
from rewardmesh.logprob.service import SERVICE, LogProbServicer
from rewardmesh.serving import Server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc


async def create_server(config: LogProbConfig) -> Server:
    """Load the policies and build the server; raises LoadError when one cannot be served."""
    if config.threads:
        torch.set_num_threads(config.threads)

    stores = await asyncio.to_thread(_open_stores, config)
    config = await asyncio.to_thread(with_budget, config, stores[0].active, "token_statistics")
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


def _open_stores(config: LogProbConfig) -> list[ModelStore]:
    """The policies, the default one first, then the adapters.

    An adapter is opened on the version of the default policy that is active at that time, and stays on it.
    """
    if config.adapters and config.engine != "transformers":
        raise LoadError(f"adapters: the {config.engine} engine cannot share a base; serve merged weights, or use the transformers engine")
    names = [config.name, *config.policies, *config.adapters]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise LoadError(f"name, policies, adapters: {', '.join(repeated)} is the name of more than one policy")

    def policy(name: str, source: str) -> ModelStore:
        def load(path: str, version: int) -> ServedModel:
            model = open_model(config, "causal", "token_statistics", path=path, version=version, name=name)
            if config.adapters and name == config.name:
                return share(cast(LoadedModel, model))
            return model

        return ModelStore(SERVICE, load(source, 1), load)

    def adapter(name: str, source: str, base: ModelStore) -> ModelStore:
        def load(path: str, version: int) -> ServedModel:
            return open_adapter(cast(AdaptedModel, base.active), path, name=name, version=version)

        return ModelStore(SERVICE, load(source, 1), load)

    stores = [policy(config.name, config.model)]
    stores += [policy(name, source) for name, source in config.policies.items()]
    return stores + [adapter(name, source, stores[0]) for name, source in config.adapters.items()]
