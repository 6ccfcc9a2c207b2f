"""From JSON bodies to the gateway's own messages."""

from __future__ import annotations

from rewardmesh.client import answer, message, sample
from rewardmesh.gateway.http.schema import Context, EvaluateBody, Sample
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh


def samples(body: EvaluateBody) -> list[pb.Sample]:
    """The samples of a body; one without an id is named after its place."""
    return [_sample(each, place) for place, each in enumerate(body.samples)]


def options(body: EvaluateBody) -> mesh.EvaluateOptions:
    """Program and pins of a body."""
    pins = {signal: pb.ModelRef(version=pin.version, fingerprint=pin.fingerprint) for signal, pin in body.pins.items()}
    return mesh.EvaluateOptions(program=body.program, program_fingerprint=body.program_fingerprint, pins=pins)


def _sample(body: Sample, place: int) -> pb.Sample:
    return sample(
        body.id or str(place),
        [message(turn.role, turn.content, name=turn.name) for turn in body.prompt],
        answer(body.completion, finish_reason=body.finish_reason),
        group_id=body.group_id,
        references=body.references,
        tags=body.tags,
        context=None if body.context is None else _context(body.context),
    )


def _context(body: Context) -> pb.Context:
    return pb.Context(
        criteria=[pb.Criterion(id=each.id, text=each.text, weight=each.weight) for each in body.criteria],
        principles=body.principles,
        notes=body.notes,
        user_id=body.user_id,
        user_group_id=body.user_group_id,
    )
