"""What a program does about a signal that is absent: `drop`, `wait`, `abort`, `resample` or `fallback(<value>)`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

_POLICIES: Mapping[str, mesh.AbsencePolicy.ValueType] = {
    "drop": mesh.ABSENCE_POLICY_DROP,
    "wait": mesh.ABSENCE_POLICY_WAIT,
    "abort": mesh.ABSENCE_POLICY_ABORT,
    "resample": mesh.ABSENCE_POLICY_RESAMPLE,
}
# Where several signals are absent: an abort outranks all; waiting is useless once another signal has made up its mind.
STRENGTH = (mesh.ABSENCE_POLICY_ABORT, mesh.ABSENCE_POLICY_RESAMPLE, mesh.ABSENCE_POLICY_DROP, mesh.ABSENCE_POLICY_WAIT)
_FALLBACK = re.compile(r"fallback\(\s*([^()\s]+)\s*\)")


@dataclass(frozen=True)
class Rule:
    """A policy, and the value of a fallback."""

    policy: mesh.AbsencePolicy.ValueType
    fallback: float | None = None

    def effective(self, absence: pb.Absence) -> mesh.AbsencePolicy.ValueType:
        """The policy for one absence: there is no use in waiting for what cannot be retried."""
        if self.policy == mesh.ABSENCE_POLICY_WAIT and not absence.retryable:
            return mesh.ABSENCE_POLICY_DROP
        return self.policy

    def __str__(self) -> str:
        if self.fallback is not None:
            return f"fallback({self.fallback!r})"
        return next(name for name, policy in _POLICIES.items() if policy == self.policy)


DROP = Rule(mesh.ABSENCE_POLICY_DROP)


def parse_rule(data: object) -> Rule:
    """Read a policy; ValueError says what is wrong."""
    if isinstance(data, str):
        if data in _POLICIES:
            return Rule(_POLICIES[data])
        if found := _FALLBACK.fullmatch(data):
            try:
                value = float(found[1])
            except ValueError:
                value = math.nan
            if math.isfinite(value):
                return Rule(mesh.ABSENCE_POLICY_FALLBACK, value)
    raise ValueError(f"must be one of {', '.join(_POLICIES)} or fallback(<number>), is {data!r}")
