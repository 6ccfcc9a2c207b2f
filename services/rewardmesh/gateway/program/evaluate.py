"""Runs a program over a group: from the values and absences of its signals to one reward, or a typed absence, for each sample.

An absent value never becomes a number, unless the program itself declares a fallback.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rewardmesh.gateway.program.absence import STRENGTH
from rewardmesh.gateway.program.node import Cause, Member, Present
from rewardmesh.gateway.program.program import Program
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh


@dataclass(frozen=True)
class Composition:
    """What came of one sample: a value, or an absence with what the caller is advised to do.

    Attributes:
        value: finite in float32, on the program's scale; None when there is none.
        absence: why there is none.
        advice: the deciding policy of an absence; unspecified with a value.
        applied: what was done about each absent signal that mattered, fallbacks included.
        pending: signals whose values may still come and would matter.
    """

    value: float | None = None
    absence: pb.Absence | None = None
    advice: mesh.AbsencePolicy.ValueType = mesh.ABSENCE_POLICY_UNSPECIFIED
    applied: Mapping[str, mesh.AbsencePolicy.ValueType] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()


def evaluate(program: Program, members: Sequence[Member]) -> list[Composition]:
    """Compose the rewards of one group, in order. Values must be there for every signal in `program.reward.needs(tags)`."""
    return [
        _value(result) if isinstance(result, Present) else _absence(program, result.causes) for result in program.reward.evaluate(members)
    ]


def _value(result: Present) -> Composition:
    applied = dict.fromkeys(sorted(result.fallbacks), mesh.ABSENCE_POLICY_FALLBACK)
    if not math.isfinite(result.value) or not _fits_float32(result.value):
        lost = absence(pb.ABSENCE_REASON_NON_FINITE, f"the composed reward is {result.value}")
        return Composition(absence=lost, advice=mesh.ABSENCE_POLICY_DROP, applied=applied)
    return Composition(value=result.value, applied=applied)


def _absence(program: Program, causes: Sequence[Cause]) -> Composition:
    pending = frozenset(cause.signal for cause in causes if cause.pending)
    if pending:
        return Composition(absence=next(cause.absence for cause in causes if cause.pending), pending=pending)
    policies = [_policy(program, cause) for cause in causes]
    advice = min(policies, key=STRENGTH.index)
    decisive = causes[policies.index(advice)]
    lost = pb.Absence()
    lost.CopyFrom(decisive.absence)
    lost.detail = "; ".join(f"{cause.signal}: {cause.absence.detail}" if cause.signal else cause.absence.detail for cause in causes)
    lost.retryable = all(cause.absence.retryable for cause in causes)
    if not lost.retryable:
        lost.ClearField("retry_after")
    applied = {cause.signal: policy for cause, policy in zip(causes, policies, strict=True) if cause.own and cause.signal}
    return Composition(absence=lost, advice=advice, applied=applied)


def _policy(program: Program, cause: Cause) -> mesh.AbsencePolicy.ValueType:
    if not cause.signal:
        return mesh.ABSENCE_POLICY_DROP
    policy = program.rules[cause.signal].effective(cause.absence)
    # A fallback stands in for a value, not for the statistics of a group.
    return mesh.ABSENCE_POLICY_DROP if policy == mesh.ABSENCE_POLICY_FALLBACK else policy


def _fits_float32(value: float) -> bool:
    try:
        return math.isfinite(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return False
