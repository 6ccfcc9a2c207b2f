"""VerifierService: validates a call, runs its samples through the pool, and puts results and reasons into outcomes."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc
from google.protobuf import json_format
from prometheus_client import Gauge
from pydantic import ValidationError

from rewardmesh.client.arrays import unpack_ints
from rewardmesh.serving import CallError, Server
from rewardmesh.serving.context import CallContext, remaining_s
from rewardmesh.serving.errors import invalid_argument, not_found, overloaded
from rewardmesh.serving.metrics import COMPUTE_SECONDS, INFLIGHT_ITEMS, QUEUE_SECONDS, count_outcome
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.v1 import verifier_service_pb2_grpc
from rewardmesh.verifier.config import VerifierConfig
from rewardmesh.verifier.pool import Checked, Limits, Pool, QueueFull
from rewardmesh.verifier.registry import Options, Verifier, discover
from rewardmesh.verifier.verdicts import NoVerdict, SampleFields, Status, Verdict

SERVICE = "rewardmesh.v1.VerifierService"
QUEUE_ITEMS = Gauge("rewardmesh_verifier_queue_items", "Samples accepted and not yet checked.", ["replica"])

_STATUS = {
    Status.PASS: verifier_pb.VERDICT_STATUS_PASS,
    Status.FAIL: verifier_pb.VERDICT_STATUS_FAIL,
    Status.PARTIAL: verifier_pb.VERDICT_STATUS_PARTIAL,
}
_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant", pb.ROLE_TOOL: "tool"}


class VerifierServicer(verifier_service_pb2_grpc.VerifierServiceServicer):
    """Answers Verify and ListVerifiers."""

    def __init__(self, config: VerifierConfig, verifiers: Mapping[str, Verifier], pool: Pool) -> None:
        self._config = config
        self._verifiers = verifiers
        self._pool = pool

    async def Verify(self, request: verifier_pb.VerifyRequest, context: CallContext) -> verifier_pb.VerifyResponse:
        """One outcome a sample, in order. Refuses unknown verifiers and options, bad ids, and what the queue cannot hold."""
        verifier = self._verifiers.get(request.verifier)
        if verifier is None:
            raise not_found("verifier", request.verifier, self._verifiers)
        options = read_options(verifier, request)
        require_unique_ids((sample.id for sample in request.samples), "samples")
        if len(request.samples) > self._config.max_queue_items:
            raise invalid_argument(
                "samples", f"{len(request.samples)} in one call; this server takes at most {self._config.max_queue_items}"
            )
        read = [read_sample(sample, verifier, self._config.max_text_bytes) for sample in request.samples]
        with _in_flight(len(read)):
            checked = iter(await self._check(verifier, options, [fields for fields in read if isinstance(fields, SampleFields)], context))
        outcomes = []
        for sample, fields in zip(request.samples, read, strict=True):
            outcome = self._outcome(sample.id, next(checked) if isinstance(fields, SampleFields) else fields)
            count_outcome(SERVICE, verifier.name, outcome.absence if outcome.HasField("absence") else None)
            outcomes.append(outcome)
        return verifier_pb.VerifyResponse(outcomes=outcomes)

    async def ListVerifiers(self, request: verifier_pb.ListVerifiersRequest, context: CallContext) -> verifier_pb.ListVerifiersResponse:
        """The verifiers by name, with the JSON schema of their options."""
        infos = [
            verifier_pb.VerifierInfo(
                name=verifier.name,
                description=verifier.description,
                needs=verifier.needs,
                options_schema=json.dumps(verifier.options.model_json_schema()),
            )
            for verifier in self._verifiers.values()
        ]
        return verifier_pb.ListVerifiersResponse(verifiers=infos)

    async def _check(self, verifier: Verifier, options: Options, samples: list[SampleFields], context: CallContext) -> list[Checked]:
        remaining = remaining_s(context)
        if remaining is not None:
            # What is settled in time should still reach the caller.
            remaining = max(0.0, remaining - min(0.05, 0.1 * remaining))
        try:
            return await self._pool.run(verifier.name, options, samples, remaining)
        except QueueFull as full:
            message = f"the queue is full: {full.waiting} samples wait, {len(samples)} more would exceed {self._config.max_queue_items}"
            raise overloaded(message, full.retry_after_s) from full

    def _outcome(self, sample_id: str, result: Checked | pb.Absence) -> verifier_pb.VerdictOutcome:
        provenance = pb.Provenance(service=SERVICE, replica=self._config.replica)
        if isinstance(result, pb.Absence):
            return verifier_pb.VerdictOutcome(sample_id=sample_id, absence=result, provenance=provenance)
        provenance.queue_seconds, provenance.compute_seconds = result.queue_seconds, result.compute_seconds
        QUEUE_SECONDS.labels(SERVICE).observe(result.queue_seconds)
        COMPUTE_SECONDS.labels(SERVICE).observe(result.compute_seconds)
        if isinstance(result.result, NoVerdict):
            return verifier_pb.VerdictOutcome(sample_id=sample_id, absence=_to_absence(result.result), provenance=provenance)
        return verifier_pb.VerdictOutcome(sample_id=sample_id, verdict=_to_verdict(result.result), provenance=provenance)


def read_options(verifier: Verifier, request: verifier_pb.VerifyRequest) -> Options:
    """The call's options, validated; raises INVALID_ARGUMENT with one violation for each mistake."""
    try:
        given = json_format.MessageToDict(request.options)
    except ValueError as error:
        raise invalid_argument("options", str(error)) from error
    try:
        return verifier.options.model_validate(given)
    except ValidationError as error:
        violations = []
        for item in error.errors(include_url=False):
            path = "options" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
            known = ", ".join(verifier.options.model_fields)
            violations.append((path, f"unknown option; known: {known}" if item["type"] == "extra_forbidden" else item["msg"]))
        message = "; ".join(f"{path}: {description}" for path, description in violations)
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, message, violations=violations) from error


def read_sample(sample: pb.Sample, verifier: Verifier, max_text_bytes: int) -> SampleFields | pb.Absence:
    """What the verifier may read of a sample, or why it cannot be checked."""
    if not sample.HasField("completion"):
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "completion: is not set")
    text = sample.completion.text
    size = (
        len(text.encode()) + sum(len(one.encode()) for one in sample.references) + sum(len(one.content.encode()) for one in sample.prompt)
    )
    if size > max_text_bytes:
        detail = f"prompt, completion.text and references hold {size} bytes; this server reads at most {max_text_bytes}"
        return absence(pb.ABSENCE_REASON_TOO_LONG, detail)
    token_ids: array[int] | None = None
    if sample.completion.HasField("token_ids"):
        packed = sample.completion.token_ids
        if len(packed.data) != 4 * packed.length:
            detail = f"completion.token_ids: {len(packed.data)} bytes for {packed.length} values, expected {4 * packed.length}"
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, detail)
        token_ids = unpack_ints(packed)
    for index, message in enumerate(sample.prompt):
        if message.role not in _ROLES:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"prompt[{index}].role: is unset or unknown ({message.role})")
    if "references" in verifier.needs and not sample.references:
        return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"verifier {verifier.name} compares with references and the sample has none")
    if "completion.token_ids" in verifier.needs and token_ids is None:
        return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"verifier {verifier.name} reads completion.token_ids and the sample has none")
    return SampleFields(
        completion=text,
        references=tuple(sample.references),
        prompt=tuple((_ROLES[message.role], message.content) for message in sample.prompt),
        token_ids=token_ids,
        tags=dict(sample.tags),
        step_starts=tuple(sample.step_starts),
    )


async def create_server(config: VerifierConfig) -> Server:
    """A server with its workers running; `start` binds it, `stop` drains it and ends the workers.

    Raises:
        WorkerDied: a worker could not start, for example because of too low a memory limit.
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
    pool = Pool(limits)
    await pool.start()
    server = Server(config, "verifier", lambda: (0, pool.estimated_wait_s))
    servicer = VerifierServicer(config, verifiers, pool)
    server.add_service(SERVICE, verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server, servicer)
    QUEUE_ITEMS.labels(config.replica).set_function(lambda: pool.waiting)
    server.on_stop(pool.close)
    return server


@contextmanager
def _in_flight(items: int) -> Iterator[None]:
    gauge = INFLIGHT_ITEMS.labels(SERVICE)
    gauge.inc(items)
    try:
        yield
    finally:
        gauge.dec(items)


def _to_verdict(verdict: Verdict) -> verifier_pb.Verdict:
    result = verifier_pb.Verdict(
        status=_STATUS[verdict.status], score=verdict.score, evidence=verdict.evidence, extracted_answer=verdict.extracted_answer
    )
    if verdict.span:
        result.location.span.start, result.location.span.end = verdict.span
        result.location.line = verdict.line
    return result


def _to_absence(result: NoVerdict) -> pb.Absence:
    return absence(pb.AbsenceReason.Value(f"ABSENCE_REASON_{result.reason.value}"), result.detail, retryable=result.retryable)
