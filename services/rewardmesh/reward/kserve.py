"""The Open Inference Protocol (KServe v2) on a reward server, for tritonclient and every other client of Triton or KServe.

`inference.GRPCInferenceService` with the messages that the tritonclient package brings. Inputs, one of:
- `prompt` BYTES [n] (or [1] for all) with `completion` BYTES [n]: as in `Score`. A prompt is a text (one user message), or a JSON list
  of {"role", "content"};
- `text` BYTES [n]: whole texts, templated already, read as they are;
- `input_ids` INT32 or INT64 [n, L], with `lengths` INT32 or INT64 [n] or `attention_mask` INT32, INT64 or BOOL [n, L] when rows are padded.

Outputs: `score` FP32 [n, outputs of the head], NaN where there is none (an absent score is never 0), `absent` BOOL [n], and `absence`
BYTES [n]: empty, or JSON {"reason", "detail", "retryable", "retry_after_seconds"}.
Specification: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import metadata
from typing import Any, cast

import numpy as np

from rewardmesh.client import Absence
from rewardmesh.engine.versions import ModelStore
from rewardmesh.reward.kserve_inputs import INPUTS, samples_of
from rewardmesh.reward.tensors import Tensor, read_inputs, write_outputs
from rewardmesh.serving import CallError, Server
from rewardmesh.serving.context import CallContext, Priority, remaining_s
from rewardmesh.serving.errors import invalid_argument, unimplemented
from rewardmesh.serving.logs import get_logger
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api

log = get_logger(__name__)

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "rewardmesh"

_OUTPUTS = ("score", "absent", "absence")
_WINDOW = 32
"""Requests of one stream that are under way at the same time."""

Score = Callable[[api.ScoreRequest, CallContext], Any]


class KServeServicer:
    """Translates inference requests into calls of a RewardService's `Score`, in this process.

    Args:
        score: the method.
        store: the model's versions.
        outputs: number of the head's outputs.
    """

    def __init__(self, score: Score, store: ModelStore, outputs: int) -> None:
        from tritonclient.grpc import model_config_pb2, service_pb2

        self._pb: Any = service_pb2
        self._config_pb: Any = model_config_pb2
        self._methods = {method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
        self._score = score
        self._store = store
        self._outputs = outputs

    def __getattr__(self, name: str) -> Any:
        """Methods of the protocol that are about other things than inference."""
        if name.startswith("_") or name not in self._methods:
            raise AttributeError(name)

        async def refuse(request: Any, context: CallContext) -> Any:
            raise unimplemented(f"{SERVICE}/{name}")

        return refuse

    async def ServerLive(self, request: Any, context: CallContext) -> Any:
        """It answers."""
        return self._pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: CallContext) -> Any:
        """The model is loaded before the server listens."""
        return self._pb.ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, context: CallContext) -> Any:
        """Name and version of this software."""
        return self._pb.ServerMetadataResponse(name="rewardmesh", version=metadata.version("rewardmesh"))

    async def ModelReady(self, request: Any, context: CallContext) -> Any:
        """Whether the model, or one version of it, is in memory."""
        known = {"", *(str(model.version) for model in self._store.versions())}
        return self._pb.ModelReadyResponse(ready=request.name == self._store.name and request.version in known)

    async def ModelMetadata(self, request: Any, context: CallContext) -> Any:
        """Tensors and versions; -1 stands for any size."""
        self._store.resolve(_model_ref(request.name, request.version))
        response = self._pb.ModelMetadataResponse(name=self._store.name, platform=PLATFORM)
        response.versions.extend(str(model.version) for model in self._store.versions())
        for name, datatypes in INPUTS.items():
            response.inputs.add(name=name, datatype=datatypes[0], shape=_input_shape(name))
        for name, datatype, shape in self._output_shapes():
            response.outputs.add(name=name, datatype=datatype, shape=shape)
        return response

    async def ModelConfig(self, request: Any, context: CallContext) -> Any:
        """The same as Triton's configuration, where inputs can be said to be optional."""
        self._store.resolve(_model_ref(request.name, request.version))
        config = self._config_pb.ModelConfig(name=self._store.name, platform=PLATFORM)
        for name, datatypes in INPUTS.items():
            kind = self._config_pb.DataType.Value(_config_type(datatypes[0]))
            config.input.add(name=name, data_type=kind, dims=_input_shape(name), optional=True)
        for name, datatype, shape in self._output_shapes():
            config.output.add(name=name, data_type=self._config_pb.DataType.Value(_config_type(datatype)), dims=shape)
        return self._pb.ModelConfigResponse(config=config)

    async def RepositoryIndex(self, request: Any, context: CallContext) -> Any:
        """All versions in memory."""
        response = self._pb.RepositoryIndexResponse()
        for model in self._store.versions():
            response.models.add(name=self._store.name, version=str(model.version), state="READY")
        return response

    async def ModelInfer(self, request: Any, context: CallContext) -> Any:
        """Score a batch."""
        wanted = [output.name for output in request.outputs] or list(_OUTPUTS)
        for output in request.outputs:
            if output.name not in _OUTPUTS:
                raise invalid_argument(f"outputs[{output.name}]", f"is no output of the model; its outputs are {', '.join(_OUTPUTS)}")
            if output.parameters:
                raise unimplemented(f"outputs[{output.name}].parameters: {', '.join(sorted(output.parameters))}")
        ref = _model_ref(request.model_name, request.model_version)
        version = self._store.resolve(ref).version
        samples = await asyncio.to_thread(samples_of, read_inputs(request, INPUTS))
        ask = api.ScoreRequest(options=api.ScoreOptions(model=pb.ModelRef(name=ref.name, version=version)), samples=samples)
        outcomes = (await self._score(ask, cast(CallContext, _Caller(context, request.parameters)))).outcomes
        response = self._pb.ModelInferResponse(model_name=self._store.name, model_version=str(version), id=request.id)
        tensors = self._tensors(outcomes)
        write_outputs(response, [tensors[name] for name in wanted], raw=bool(request.raw_input_contents) or not request.inputs)
        return response

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
        """Score batch after batch, answered in order; a request that is refused has an error message and ends nothing."""
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_WINDOW)

        async def read() -> None:
            try:
                async for request in requests:
                    await room.acquire()
                    answers.put_nowait(asyncio.create_task(self._stream_one(request, context)))
            finally:
                answers.put_nowait(None)

        left: list[asyncio.Task[Any]] = [reading := asyncio.create_task(read())]
        try:
            while (answer := await answers.get()) is not None:
                left.append(answer)
                yield await answer
                left.remove(answer)
                room.release()
            await reading  # raises what ended the stream
        finally:
            while not answers.empty():
                left += [task] if (task := answers.get_nowait()) else []
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _stream_one(self, request: Any, context: CallContext) -> Any:
        try:
            return self._pb.ModelStreamInferResponse(infer_response=await self.ModelInfer(request, context))
        except CallError as error:
            refused = self._pb.ModelInferResponse(id=request.id, model_name=request.model_name)
            return self._pb.ModelStreamInferResponse(error_message=f"{error.code.name}: {error.message}", infer_response=refused)

    def _tensors(self, outcomes: Sequence[pb.Outcome]) -> dict[str, Tensor]:
        count = len(outcomes)
        scores = np.full((count, self._outputs), np.nan, np.float32)
        absent = np.zeros(count, np.bool_)
        reasons = []
        for row, outcome in enumerate(outcomes):
            if outcome.HasField("reward"):
                objectives = [objective.value for objective in outcome.reward.objectives]
                scores[row] = objectives or outcome.reward.value
                reasons.append(b"")
            else:
                absent[row] = True
                reasons.append(_reason(outcome.absence))
        return {
            "score": Tensor("score", "FP32", scores.shape, scores),
            "absent": Tensor("absent", "BOOL", (count,), absent),
            "absence": Tensor("absence", "BYTES", (count,), reasons),
        }

    def _output_shapes(self) -> list[tuple[str, str, list[int]]]:
        return [("score", "FP32", [-1, self._outputs]), ("absent", "BOOL", [-1]), ("absence", "BYTES", [-1])]


def offer_kserve(server: Server, score: Score, store: ModelStore, outputs: int) -> None:
    """Add the service to a reward server; without tritonclient, whose messages it needs, say that it is not there."""
    if importlib.util.find_spec("tritonclient") is None:
        log.info("no KServe service: tritonclient is not installed")
        return
    from tritonclient.grpc import service_pb2_grpc

    server.add_service(SERVICE, service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, KServeServicer(score, store, outputs))


class _Caller:
    """The call's context with the request's own priority and timeout, which are parameters in this protocol."""

    def __init__(self, context: CallContext, parameters: Any) -> None:
        self._context = context
        level = _whole(parameters, "priority")
        timeout_us = _whole(parameters, "timeout")
        self._priority = None if not level else Priority(min(level, 3) - 1).name
        self._until = None if not timeout_us else asyncio.get_running_loop().time() + timeout_us / 1e6

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        sent = tuple(self._context.invocation_metadata() or ())
        return sent if self._priority is None else (("x-priority", self._priority), *(each for each in sent if each[0] != "x-priority"))

    def time_remaining(self) -> float | None:
        left_s = remaining_s(self._context)
        if self._until is None:
            return left_s
        mine_s = max(0.0, self._until - asyncio.get_running_loop().time())
        return mine_s if left_s is None else min(mine_s, left_s)


def _whole(parameters: Any, name: str) -> int:
    """A parameter that is a whole number, 0 when it is not given. priority: 1 is the highest; timeout: microseconds."""
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    value = getattr(parameters[name], kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or value < 0:
        raise invalid_argument(f"parameters[{name}]", "must be a whole number of at least 0")
    return int(value)


def _model_ref(name: str, version: str) -> pb.ModelRef:
    if not name:
        raise invalid_argument("model_name", "must not be empty")
    if version and not (version.isascii() and version.isdecimal() and 0 < int(version) < 2**63):
        raise invalid_argument("model_version", f"{version!r} is no version; versions are whole numbers from 1, empty for the active one")
    return pb.ModelRef(name=name, version=int(version or 0))


def _reason(lost: pb.Absence) -> bytes:
    read = Absence.from_proto(lost)
    about = {"reason": str(read.reason), "detail": read.detail, "retryable": read.retryable, "retry_after_seconds": read.retry_after_s}
    return json.dumps(about).encode()


def _input_shape(name: str) -> list[int]:
    return [-1, -1] if name in ("input_ids", "attention_mask") else [-1]


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
