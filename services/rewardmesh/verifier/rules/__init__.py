"""Constraints on the form of an answer, one family a file.

The ids and arguments of the twenty-five instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911), written anew from what they mean, and
more in the same manner. Each file says where it departs from IFEval's checker.
"""

from rewardmesh.verifier.rules.catalogue import CONSTRAINTS, AnyConstraint, constraints_of
from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text, Undecided
from rewardmesh.verifier.rules.readings import check, loose, strict

__all__ = ["CONSTRAINTS", "AnyConstraint", "Constraint", "Finding", "Text", "Undecided", "check", "constraints_of", "loose", "strict"]
