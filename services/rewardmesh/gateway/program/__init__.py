"""Reward programs: which signals to ask, and how their values become one reward. Pure: nothing here calls a service.

program = parse_program(Path("math.yaml").read_text(), "math.yaml")
for composition in evaluate(program, [Member(tags={}, values={"correct": 1.0, "helpful": 0.3})]):
    print(composition.value, composition.absence, composition.advice)
"""

from rewardmesh.gateway.program.evaluate import Composition, evaluate
from rewardmesh.gateway.program.node import PENDING, Member
from rewardmesh.gateway.program.program import Program, parse_program
from rewardmesh.gateway.program.scales import Scale
from rewardmesh.gateway.program.signals import (
    CompareSignal,
    CritiqueSignal,
    GradeSignal,
    JudgeSignal,
    RankSignal,
    RewardSignal,
    Signal,
    VerifierSignal,
)
from rewardmesh.gateway.program.source import ProgramError

__all__ = [
    "PENDING",
    "CompareSignal",
    "Composition",
    "CritiqueSignal",
    "GradeSignal",
    "JudgeSignal",
    "Member",
    "Program",
    "ProgramError",
    "RankSignal",
    "RewardSignal",
    "Scale",
    "Signal",
    "VerifierSignal",
    "evaluate",
    "parse_program",
]
