"""Audits of judges."""

from rewardmesh.audit.judge.audit import assembled, audit_judge, chosen, specs
from rewardmesh.audit.judge.data import Answer, AuditGroup, AuditPair, JudgeData, user
from rewardmesh.audit.judge.injections import Corpus, Injection, built_in, read_corpus
from rewardmesh.audit.judge.settings import JudgeSettings, words

__all__ = [
    "Answer",
    "AuditGroup",
    "AuditPair",
    "Corpus",
    "Injection",
    "JudgeData",
    "JudgeSettings",
    "assembled",
    "audit_judge",
    "built_in",
    "chosen",
    "read_corpus",
    "specs",
    "user",
    "words",
]
