"""Audits: whether a judge or a verifier can be trusted with the reward, as figures beside thresholds, a report and a gate."""

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.figures import Estimate, Figure
from rewardmesh.audit.judge import (
    Answer,
    AuditGroup,
    AuditPair,
    JudgeData,
    JudgeSettings,
    audit_judge,
)
from rewardmesh.audit.subject import Audit
from rewardmesh.audit.verifier import LabelledAnswer, VerifierData, VerifierSettings, audit_verifier

__all__ = [
    "Answer",
    "Audit",
    "AuditError",
    "AuditGroup",
    "AuditPair",
    "Estimate",
    "Figure",
    "JudgeData",
    "JudgeSettings",
    "LabelledAnswer",
    "VerifierData",
    "VerifierSettings",
    "audit_judge",
    "audit_verifier",
]
