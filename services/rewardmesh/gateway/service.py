"""MeshService: reward programs over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rewardmesh.gateway.asking import Asker
from rewardmesh.gateway.backends import Backends
from rewardmesh.gateway.catalogue import Catalogue, load_catalogue
from rewardmesh.gateway.config import GatewayConfig
from rewardmesh.gateway.evaluation import SERVICE, Call, GroupEvaluation, evaluate_group
from rewardmesh.gateway.groups import Group, StreamGroups, check_pins, cut_groups
from rewardmesh.gateway.program import Program
from rewardmesh.gateway.signals import asker
from rewardmesh.serving import Server
from rewardmesh.serving.context import CallContext, priority, propagated_metadata, remaining_s
from rewardmesh.serving.errors import invalid_argument, to_duration
from rewardmesh.serving.streaming import stream_items
from rewardmesh.serving.validation import require_unique_ids
from rewardmesh.v1 import mesh_service_pb2 as api
from rewardmesh.v1 import mesh_service_pb2_grpc as rpc


class MeshServicer(rpc.MeshServiceServicer):
    """Runs the programs of a catalogue.

    askers: for every program and signal, the one who asks.
    """

    def __init__(self, config: GatewayConfig, catalogue: Catalogue, askers: Mapping[str, Mapping[str, Asker[Any, Any]]]) -> None:
        self._config = config
        self._catalogue = catalogue
        self._askers = askers

    async def Evaluate(self, request: api.EvaluateRequest, context: CallContext) -> api.EvaluateResponse:
        """See the proto."""
        require_unique_ids((sample.id for sample in request.samples), "samples")
        call = self._begin(request.options, context)
        groups = cut_groups(request.samples)
        results = await self._evaluate(call, groups)
        evaluations: list[api.Evaluation] = [api.Evaluation()] * len(request.samples)
        for group, result in zip(groups, results, strict=True):
            for place, evaluation in zip(group.places, result.evaluations, strict=True):
                evaluations[place] = evaluation
        matrices = [matrix for result in results for matrix in result.preferences]
        return api.EvaluateResponse(evaluations=evaluations, groups=matrices, program_fingerprint=call.program.fingerprint)

    async def StreamEvaluate(
        self, requests: AsyncIterator[api.StreamEvaluateRequest], context: CallContext
    ) -> AsyncIterator[api.StreamEvaluateResponse]:
        """See the proto."""
        first = await anext(aiter(requests), None)
        if first is None:
            return
        self._begin(first.options, context)  # refuses before any group is read
        stream = StreamGroups()

        async def groups() -> AsyncIterator[Group]:
            for group in stream.add(first.samples):
                yield group
            async for message in requests:
                if message.HasField("options"):
                    raise invalid_argument("options", "may only be in the first message of a stream")
                for group in stream.add(message.samples):
                    yield group

        async def answer(group: Group) -> api.StreamEvaluateResponse:
            call = self._begin(first.options, context)
            result = await evaluate_group(call, group)
            return api.StreamEvaluateResponse(
                evaluations=result.evaluations, groups=result.preferences, program_fingerprint=call.program.fingerprint
            )

        async for response in stream_items(groups(), answer, window=self._config.groups_in_flight):
            yield response

    async def DescribeProgram(self, request: api.DescribeProgramRequest, context: CallContext) -> api.DescribeProgramResponse:
        """See the proto."""
        program = self._catalogue.get(request.program)
        return api.DescribeProgramResponse(
            program=program.name,
            fingerprint=program.fingerprint,
            yaml=program.text,
            signals=[_signal_info(program, name) for name in program.signals],
            scale=program.reward.scale.to_proto(),
        )

    async def ListPrograms(self, request: api.ListProgramsRequest, context: CallContext) -> api.ListProgramsResponse:
        """See the proto."""
        return api.ListProgramsResponse(programs=self._catalogue.programs)

    async def SelectBest(self, request: api.SelectBestRequest, context: CallContext) -> api.SelectBestResponse:
        """See the proto. Of equal rewards the first in the request's order wins."""
        require_unique_ids((sample.id for sample in request.samples), "samples")
        if not request.samples:
            raise invalid_argument("samples", "must hold at least one sample")
        group_ids = {sample.group_id for sample in request.samples}
        if len(group_ids) > 1:
            raise invalid_argument("samples", f"must all be of one group, are of {', '.join(map(repr, sorted(group_ids)))}")
        for place, sample in enumerate(request.samples):
            if sample.prompt != request.samples[0].prompt:
                raise invalid_argument(f"samples[{place}].prompt", "differs from that of the first sample")
        group = Group(group_ids.pop(), list(request.samples), list(range(len(request.samples))))
        [result] = await self._evaluate(self._begin(request.options, context), [group])
        scored = [e.outcome for e in result.evaluations if e.outcome.HasField("reward")]
        best = max(scored, key=lambda outcome: outcome.reward.value, default=None)
        return api.SelectBestResponse(best_sample_id=best.sample_id if best else "", evaluations=result.evaluations)

    def _begin(self, options: api.EvaluateOptions, context: CallContext) -> Call:
        program = self._catalogue.get(options.program, options.program_fingerprint)
        check_pins(program, options.pins)
        priority(context)  # an unknown class is the caller's mistake, not an absence of every signal
        left_s = remaining_s(context)
        return Call(
            program=program,
            askers=self._askers[program.name],
            pins=dict(options.pins),
            deadline=asyncio.get_running_loop().time() + (self._config.default_timeout_seconds if left_s is None else left_s),
            metadata=propagated_metadata(context),
            replica=self._config.replica,
        )

    async def _evaluate(self, call: Call, groups: Sequence[Group]) -> list[GroupEvaluation]:
        gate = asyncio.Semaphore(self._config.groups_in_flight)

        async def one(group: Group) -> GroupEvaluation:
            async with gate:
                return await evaluate_group(call, group)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(group)) for group in groups]
        return [task.result() for task in running]


def _signal_info(program: Program, name: str) -> api.SignalInfo:
    signal, rule = program.signals[name], program.rules[name]
    info = api.SignalInfo(name=name, kind=signal.kind, target=signal.target, scale=signal.scale.to_proto(), on_absence=rule.policy)
    if rule.fallback is not None:
        info.fallback = rule.fallback
    if signal.timeout is not None:
        info.timeout.CopyFrom(to_duration(signal.timeout))
    return info


async def create_server(config: GatewayConfig) -> Server:
    """Load the programs and build the server; backends need not be up.

    Raises:
        ConfigError: a mistake in a program, or a signal without a backend.
    """
    catalogue = load_catalogue(config.programs, config.baselines)
    backends = Backends(config.backends, config.max_message_bytes)
    try:
        askers = {
            program.name: {name: asker(name, signal, backends.resolve(program, name, signal)) for name, signal in program.signals.items()}
            for program in catalogue.programs.values()
        }
    except BaseException:
        await backends.close()
        raise
    servicer = MeshServicer(config, catalogue, askers)
    server = Server(config, "gateway") if config.http_port is None else _with_http(config, servicer)
    server.add_service(SERVICE, rpc.add_MeshServiceServicer_to_server, servicer)
    server.on_stop(backends.close)
    return server


def _with_http(config: GatewayConfig, servicer: MeshServicer) -> Server:
    from rewardmesh.gateway.http import http_server  # what serves HTTP is loaded only where it is served

    return http_server(config, servicer)
