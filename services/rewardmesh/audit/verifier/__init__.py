"""Audits of verifiers."""

from rewardmesh.audit.verifier.audit import assembled, audit_verifier, specs
from rewardmesh.audit.verifier.data import LabelledAnswer, VerifierData, read_verifier_data
from rewardmesh.audit.verifier.settings import VerifierSettings

__all__ = ["LabelledAnswer", "VerifierData", "VerifierSettings", "assembled", "audit_verifier", "read_verifier_data", "specs"]
