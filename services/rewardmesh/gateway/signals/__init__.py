"""How each kind of signal asks its service: one file each."""

from __future__ import annotations

from typing import Any

from rewardmesh.gateway.asking import Asker
from rewardmesh.gateway.backends import Backend
from rewardmesh.gateway.program import JudgeSignal, RewardSignal, Signal
from rewardmesh.gateway.signals.compare import CompareAsker
from rewardmesh.gateway.signals.grade import GradeAsker
from rewardmesh.gateway.signals.reward import RewardAsker
from rewardmesh.gateway.signals.verifier import VerifierAsker

__all__ = ["CompareAsker", "GradeAsker", "RewardAsker", "VerifierAsker", "asker"]


def asker(name: str, signal: Signal, backend: Backend) -> Asker[Any, Any]:
    """The one who asks for a signal."""
    if isinstance(signal, RewardSignal):
        return RewardAsker(name, signal, backend)
    if isinstance(signal, JudgeSignal):
        return CompareAsker(name, signal, backend) if signal.mode == "compare" else GradeAsker(name, signal, backend)
    return VerifierAsker(name, signal, backend)
