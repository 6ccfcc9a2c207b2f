"""VerifierService: validates a call, has its samples checked (here, in the pool or in sandboxes), and answers with outcomes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import asdict

from google.protobuf.struct_pb2 import Struct
from prometheus_client import Gauge

from rewardmesh.serving import Server
from rewardmesh.serving.context import CallContext, remaining_s
from rewardmesh.serving.errors import invalid_argument, not_found, overloaded
from rewardmesh.serving.metrics import INFLIGHT_ITEMS
from rewardmesh.serving.validation import require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.v1 import verifier_service_pb2_grpc
from rewardmesh.verifier.admission import Rule, admit, verifiers_of
from rewardmesh.verifier.config import VerifierConfig
from rewardmesh.verifier.crew import SandboxCrew
from rewardmesh.verifier.groups import GroupStream, gathered
from rewardmesh.verifier.inline import SLICE_S, check, runs_inline
from rewardmesh.verifier.line import Line, QueueFull
from rewardmesh.verifier.outcomes import SERVICE, OutcomeWriter, observe
from rewardmesh.verifier.pool import Limits, Pool
from rewardmesh.verifier.reading import read_options, read_sample
from rewardmesh.verifier.registry import Measured, Options, Verifier, discover
from rewardmesh.verifier.sandbox.sandboxes import open_sandboxes
from rewardmesh.verifier.stream import StreamLimits, VerifyStream
from rewardmesh.verifier.verdicts import Checked, SampleFields, Work

QUEUE_ITEMS = Gauge("rewardmesh_verifier_queue_items", "Samples accepted and not yet checked.", ["replica"])


class VerifierServicer(verifier_service_pb2_grpc.VerifierServiceServicer):
    """Answers Verify, StreamVerify and ListVerifiers."""

    def __init__(self, config: VerifierConfig, verifiers: Mapping[str, Verifier], pool: Line, crew: Line, sandbox: str) -> None:
        """`pool` checks in workers and `crew` in sandboxes, of the runtime named `sandbox`."""
        self._config = config
        self._verifiers = verifiers
        self._pool, self._crew, self._sandbox = pool, crew, sandbox

    async def Verify(self, request: verifier_pb.VerifyRequest, context: CallContext) -> verifier_pb.VerifyResponse:
        """One outcome a sample, in order. Refuses unknown verifiers and options, bad ids, and what the queue cannot hold."""
        verifier, options = self._chosen(request.verifier, request.options)
        require_unique_ids((sample.id for sample in request.samples), "samples")
        if len(request.samples) > self._config.max_queue_items:
            raise invalid_argument(
                "samples", f"{len(request.samples)} in one call; this server takes at most {self._config.max_queue_items}"
            )
        with _in_flight(len(request.samples)):
            results = await self._check(verifier, options, request, context)
        response = verifier_pb.VerifyResponse()
        writer = OutcomeWriter(verifier.name, self._config.replica)
        for sample, result in zip(request.samples, results, strict=True):
            if isinstance(result, Checked):
                writer.write(response.outcomes, sample.id, result.result, result.queue_seconds, result.compute_seconds)
            else:
                writer.write(response.outcomes, sample.id, result)
        writer.flush()
        return response

    async def StreamVerify(
        self, requests: AsyncIterator[verifier_pb.StreamVerifyRequest], context: CallContext
    ) -> AsyncIterator[verifier_pb.StreamVerifyResponse]:
        """Outcomes as they are ready. A stream waits for room in the queue where Verify would be refused."""
        first = await anext(aiter(requests), None)
        if first is None:
            return
        if not first.verifier:
            raise invalid_argument("verifier", "must be named in the first message of a stream")
        verifier, options = self._chosen(first.verifier, first.options)
        limits = StreamLimits(self._config.stream_window_items, self._config.max_stream_items, self._config.max_text_bytes)
        kind = GroupStream if verifier.verify_group else VerifyStream
        stream = kind(self._line(verifier), verifier, options, limits, self._config.replica)
        async with aclosing(stream.replies(first, requests, _time_to_check(context))) as replies:
            async for reply in replies:
                yield reply

    async def ListVerifiers(self, request: verifier_pb.ListVerifiersRequest, context: CallContext) -> verifier_pb.ListVerifiersResponse:
        """The verifiers by name, with the JSON schema of their options."""
        infos = [
            verifier_pb.VerifierInfo(
                name=verifier.name,
                description=verifier.description,
                needs=verifier.needs,
                options_schema=json.dumps(verifier.options.model_json_schema()),
                groups=verifier.verify_group is not None,
                sandbox=self._sandbox if verifier.check else "",
                measured=_accuracy(verifier.measured),
            )
            for verifier in self._verifiers.values()
        ]
        return verifier_pb.ListVerifiersResponse(verifiers=infos)

    def _line(self, verifier: Verifier) -> Line:
        return self._crew if verifier.check else self._pool

    def _chosen(self, name: str, options: Struct) -> tuple[Verifier, Options]:
        verifier = self._verifiers.get(name)
        if verifier is None:
            raise not_found("verifier", name, self._verifiers)
        return verifier, read_options(verifier, options)

    async def _check(
        self, verifier: Verifier, options: Options, request: verifier_pb.VerifyRequest, context: CallContext
    ) -> list[Checked | pb.Absence]:
        """What comes of each sample, in order."""
        results: list[Checked | pb.Absence | None] = []
        pooled: list[tuple[int, SampleFields]] = []
        came = began = time.monotonic()
        for position, sample in enumerate(request.samples):
            fields = read_sample(sample, verifier, self._config.max_text_bytes)
            if isinstance(fields, pb.Absence):
                results.append(fields)
            elif runs_inline(verifier, fields, options):
                results.append(Checked(check(verifier, options, fields), began - came, time.monotonic() - began))
            else:
                results.append(None)
                pooled.append((position, fields))
            if time.monotonic() - began > SLICE_S:
                await asyncio.sleep(0)
                began = time.monotonic()
        work = gathered(verifier, pooled)
        for (places, _), checked in zip(work, await self._run(verifier, options, [one for _, one in work], context), strict=True):
            for place, found in zip(places, checked.each(len(places)), strict=True):
                results[place] = Checked(found, checked.queue_seconds, checked.compute_seconds / len(places))
        done = [result for result in results if result is not None]
        for result in done:
            if isinstance(result, Checked):
                observe(result.queue_seconds, result.compute_seconds)
        return done

    async def _run(self, verifier: Verifier, options: Options, samples: list[Work], context: CallContext) -> list[Checked]:
        try:
            return await self._line(verifier).run(verifier.name, options, samples, _time_to_check(context))
        except QueueFull as full:
            message = f"the queue is full: {full.waiting} samples wait, {len(samples)} more would exceed {self._config.max_queue_items}"
            raise overloaded(message, full.retry_after_s) from full


async def create_server(config: VerifierConfig) -> Server:
    """A server with its workers running; `start` binds it, `stop` drains it and ends the workers.

    Raises:
        WorkerDied: a worker could not start, for example because of too low a memory limit.
        SandboxError: the sandbox that the configuration names does not work here.
    """
    verifiers = discover(config.verifier_packages)
    limits = Limits(
        workers=config.workers,
        item_timeout_s=config.item_timeout_seconds,
        memory_limit_bytes=config.memory_limit_bytes,
        max_queue_items=config.max_queue_items,
        recycle_after_items=config.recycle_after_items,
        packages=config.verifier_packages,
    )
    async with AsyncExitStack() as opened:
        pool = Pool(limits)
        await pool.start()
        opened.push_async_callback(pool.close)
        sandboxes = await open_sandboxes(config.sandboxes())
        opened.push_async_callback(sandboxes.close)
        rule = Rule(config.program_min_agreement, config.program_min_examples)
        verifiers = dict(sorted((verifiers | verifiers_of(await admit(config.program_dirs, rule, sandboxes))).items()))
        crew = SandboxCrew(verifiers, sandboxes, config.sandbox_slots, config.max_queue_items, config.sandbox_item_seconds)
        crew.start()
        opened.push_async_callback(crew.close)
        close = opened.pop_all().aclose
    server = Server(config, "verifier", lambda: (0, max(pool.estimated_wait_s, crew.estimated_wait_s)))
    servicer = VerifierServicer(config, verifiers, pool, crew, sandboxes.name)
    server.add_service(SERVICE, verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server, servicer)
    QUEUE_ITEMS.labels(config.replica).set_function(lambda: pool.waiting + crew.waiting)
    server.on_stop(close)
    return server


def _accuracy(measured: Measured | None) -> verifier_pb.MeasuredAccuracy | None:
    return None if measured is None else verifier_pb.MeasuredAccuracy(**asdict(measured))


@contextmanager
def _in_flight(items: int) -> Iterator[None]:
    gauge = INFLIGHT_ITEMS.labels(SERVICE)
    gauge.inc(items)
    try:
        yield
    finally:
        gauge.dec(items)


def _time_to_check(context: CallContext) -> float | None:
    """Seconds for checks; None for no limit. A little is kept, so that what is settled in time still reaches the caller."""
    remaining = remaining_s(context)
    return None if remaining is None else max(0.0, remaining - min(0.05, 0.1 * remaining))
