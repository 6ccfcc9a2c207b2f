"""What a call asks for: its options, validated, and the parts of its samples that a verifier may read."""

from __future__ import annotations

import math
from array import array

import grpc
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pydantic import ValidationError

from rewardmesh.client.arrays import unpack_floats, unpack_ints
from rewardmesh.serving import CallError
from rewardmesh.serving.config import said
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import NOTHING_MORE, More, SampleFields

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant", pb.ROLE_TOOL: "tool"}
_NO_TAGS: dict[str, str] = {}
_ROUNDING = 1e-3
"""What half precision may add to a log-probability of 0."""
_UTF8_BYTES = 4
"""Most bytes of one code point."""


def read_options(verifier: Verifier, options: Struct) -> Options:
    """The call's options, validated; raises INVALID_ARGUMENT with one violation for each mistake."""
    try:
        given = json_format.MessageToDict(options)
    except ValueError as error:
        raise invalid_argument("options", str(error)) from error
    try:
        return verifier.options.model_validate(given)
    except ValidationError as error:
        violations = []
        for item in error.errors(include_url=False):
            path = "options" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
            known = ", ".join(verifier.options.model_fields)
            violations.append((path, f"unknown option; known: {known}" if item["type"] == "extra_forbidden" else said(item)))
        message = "; ".join(f"{path}: {description}" for path, description in violations)
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, message, violations=violations) from error


def read_sample(sample: pb.Sample, verifier: Verifier, max_text_bytes: int) -> SampleFields | pb.Absence:
    """What the verifier may read of a sample, or why it cannot be checked.

    A hot path: every access to a field of a message makes a new object, so each field is read once.
    """
    if not sample.HasField("completion"):
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "completion: is not set")
    completion = sample.completion
    text = completion.text
    characters = len(text)
    references = tuple(sample.references[:])
    for reference in references:
        characters += len(reference)
    prompt: list[tuple[str, str]] = []
    for message in sample.prompt:
        role, content = _ROLES.get(message.role), message.content
        if role is None:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"prompt[{len(prompt)}].role: is unset or unknown ({message.role})")
        prompt.append((role, content))
        characters += len(content)
    if characters * _UTF8_BYTES > max_text_bytes:
        size = sum(len(one.encode()) for one in (text, *references, *(content for _, content in prompt)))
        if size > max_text_bytes:
            detail = f"prompt, completion.text and references hold {size} bytes; this server reads at most {max_text_bytes}"
            return absence(pb.ABSENCE_REASON_TOO_LONG, detail)
    token_ids: array[int] | None = None
    if completion.HasField("token_ids"):
        packed = completion.token_ids
        if len(packed.data) != 4 * packed.length:
            detail = f"completion.token_ids: {len(packed.data)} bytes for {packed.length} values, expected {4 * packed.length}"
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, detail)
        token_ids = unpack_ints(packed)
    if not references and "references" in verifier.needs:
        return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"verifier {verifier.name} compares with references and the sample has none")
    if token_ids is None and "completion.token_ids" in verifier.needs:
        return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"verifier {verifier.name} reads completion.token_ids and the sample has none")
    tags, step_starts = sample.tags, sample.step_starts
    if not step_starts and "step_starts" in verifier.needs:
        return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"verifier {verifier.name} reads step_starts and the sample has none")
    more = NOTHING_MORE
    if verifier.more:
        found = _read_more(sample, verifier, max_text_bytes - characters)
        if isinstance(found, pb.Absence):
            return found
        more = found
    return SampleFields(
        text, references, tuple(prompt), token_ids, dict(tags) if tags else _NO_TAGS, tuple(step_starts) if step_starts else (), more
    )


def _read_more(sample: pb.Sample, verifier: Verifier, most_bytes: int) -> More | pb.Absence:
    """What this verifier reads of MORE; `most_bytes`: of notes."""
    wanted = verifier.more
    notes = tuple(sample.context.notes) if "context.notes" in wanted else ()
    if sum(len(note.encode()) for note in notes) > most_bytes:
        return absence(pb.ABSENCE_REASON_TOO_LONG, "context.notes: with the other texts, longer than this server reads")
    policy, mean_log_prob, completion = "", None, sample.completion
    if "completion.policy" in wanted and completion.HasField("policy"):
        policy = f"{completion.policy.name}@{completion.policy.version}"
    if "completion.sampling_log_probs" in wanted and completion.HasField("sampling_log_probs"):
        packed = completion.sampling_log_probs
        if len(packed.data) != 4 * packed.length or not packed.length:
            detail = f"completion.sampling_log_probs: {len(packed.data)} bytes for {packed.length} values, expected 4 each and at least one"
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, detail)
        mean_log_prob = math.fsum(unpack_floats(packed)) / packed.length
        if not -math.inf < mean_log_prob <= _ROUNDING:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"completion.sampling_log_probs: mean {mean_log_prob} is no log-probability")
    given = {
        "context.notes": notes,
        "group_id": sample.group_id,
        "completion.policy": policy,
        "completion.sampling_log_probs": mean_log_prob is not None,
    }
    for field in sorted(wanted & {*verifier.needs}):
        if not given[field]:
            return absence(pb.ABSENCE_REASON_NOT_APPLICABLE, f"verifier {verifier.name} reads {field} and the sample has none")
    return More(notes, sample.group_id if "group_id" in wanted else "", policy, mean_log_prob)
