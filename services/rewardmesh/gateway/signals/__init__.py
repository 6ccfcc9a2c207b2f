"""How each kind of signal asks its service: one file each."""

from __future__ import annotations

from typing import Any

from rewardmesh.gateway.asking import Asker
from rewardmesh.gateway.backends import Backend
from rewardmesh.gateway.program import CompareSignal, CritiqueSignal, GradeSignal, RankSignal, RewardSignal, Signal
from rewardmesh.gateway.signals.compare import CompareAsker
from rewardmesh.gateway.signals.compare_references import CompareReferencesAsker
from rewardmesh.gateway.signals.critique import CritiqueAsker
from rewardmesh.gateway.signals.grade import GradeAsker
from rewardmesh.gateway.signals.rank import RankAsker
from rewardmesh.gateway.signals.reward import RewardAsker
from rewardmesh.gateway.signals.verifier import VerifierAsker

__all__ = [
    "CompareAsker",
    "CompareReferencesAsker",
    "CritiqueAsker",
    "GradeAsker",
    "RankAsker",
    "RewardAsker",
    "VerifierAsker",
    "asker",
]


def asker(name: str, signal: Signal, backend: Backend) -> Asker[Any, Any]:
    """The one who asks for a signal."""
    match signal:
        case RewardSignal():
            return RewardAsker(name, signal, backend)
        case CompareSignal(against="group"):
            return CompareAsker(name, signal, backend)
        case CompareSignal():
            return CompareReferencesAsker(name, signal, backend)
        case RankSignal():
            return RankAsker(name, signal, backend)
        case GradeSignal():
            return GradeAsker(name, signal, backend)
        case CritiqueSignal():
            return CritiqueAsker(name, signal, backend)
        case _:
            return VerifierAsker(name, signal, backend)
