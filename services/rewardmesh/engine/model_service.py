"""ModelService for any server that holds weights."""

from __future__ import annotations

import asyncio

from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.versions import ModelStore, model_ref
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import failed_precondition, invalid_argument, not_found
from rewardmesh.serving.metrics import Stopwatch
from rewardmesh.v1 import model_service_pb2 as pb
from rewardmesh.v1 import model_service_pb2_grpc as rpc

SERVICE = "rewardmesh.v1.ModelService"


class ModelServicer(rpc.ModelServiceServicer):
    """Loads, activates and unloads the versions of a store.

    Args:
        stores: one for each model the server holds; the first is the default.
        capabilities: what a model can do besides what its weights tell (outputs, scale, limits).
    """

    def __init__(self, stores: list[ModelStore], capabilities: pb.Capabilities) -> None:
        self._stores = {store.name: store for store in stores}
        self._default = stores[0]
        self._capabilities = capabilities

    def _store(self, name: str) -> ModelStore:
        if not name:
            return self._default
        if name not in self._stores:
            raise not_found("model", name, self._stores)
        return self._stores[name]

    async def GetModel(self, request: pb.GetModelRequest, context: CallContext) -> pb.GetModelResponse:
        """See the proto."""
        store = self._store(request.name)
        active = store.active
        capabilities = pb.Capabilities()
        capabilities.CopyFrom(self._capabilities)
        capabilities.forward_mode = pb.FORWARD_MODE_PACKED if active.packed else pb.FORWARD_MODE_PLAIN
        capabilities.forward_mode_reason = active.reason
        capabilities.computed_by = active.computed_by
        capabilities.computed_by_reason = active.computed_by_reason
        capabilities.batch_invariant |= active.batch_invariant
        capabilities.max_tokens = active.max_tokens
        capabilities.dtype = active.dtype
        capabilities.device = active.device_name
        capabilities.parameters = active.parameters
        return pb.GetModelResponse(active=model_ref(active), versions=map(model_ref, store.versions()), capabilities=capabilities)

    async def ListVersions(self, request: pb.ListVersionsRequest, context: CallContext) -> pb.ListVersionsResponse:
        """See the proto."""
        store = self._store(request.name)
        return pb.ListVersionsResponse(versions=map(model_ref, store.versions()), active=model_ref(store.active))

    async def LoadVersion(self, request: pb.LoadVersionRequest, context: CallContext) -> pb.LoadVersionResponse:
        """See the proto."""
        if request.version < 1:
            raise invalid_argument("version", "must be at least 1")
        if not request.path:
            raise invalid_argument("path", "must name a model directory that this server can read")
        watch = Stopwatch()
        try:
            model = await asyncio.to_thread(self._store(request.name).load, request.path, request.version)
        except LoadError as error:
            raise failed_precondition(str(error)) from error
        return pb.LoadVersionResponse(model=model_ref(model), load_seconds=watch.seconds)

    async def ActivateVersion(self, request: pb.ActivateVersionRequest, context: CallContext) -> pb.ActivateVersionResponse:
        """See the proto."""
        expected = request.expected_current if request.HasField("expected_current") else None
        previous, active = self._store(request.name).activate(request.version, expected)
        return pb.ActivateVersionResponse(previous=model_ref(previous), active=model_ref(active))

    async def UnloadVersion(self, request: pb.UnloadVersionRequest, context: CallContext) -> pb.UnloadVersionResponse:
        """See the proto."""
        store = self._store(request.name)
        store.unload(request.version)
        return pb.UnloadVersionResponse(versions=map(model_ref, store.versions()))
