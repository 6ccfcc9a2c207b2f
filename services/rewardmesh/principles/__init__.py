"""Principles that explain preferences: proposed from labelled pairs, tested on others, and put together to a short constitution.

Inverse Constitutional AI (Findeis et al. 2024, arXiv 2406.06560). Departures: candidates are merged by the words they share instead of
by clustering embeddings; a principle votes by a judge's probability in both orders of presentation and must move the judge; and the
constitution is chosen greedily by how many labels it reconstructs on pairs that no principle was proposed from or tested on.
"""

from rewardmesh.principles.asking import JudgeChanged
from rewardmesh.principles.job import Progress, SearchError, find_principles
from rewardmesh.principles.outcome import Accuracy, Outcome, Tested, Votes
from rewardmesh.principles.report import write_report
from rewardmesh.principles.settings import Settings

__all__ = [
    "Accuracy",
    "JudgeChanged",
    "Outcome",
    "Progress",
    "SearchError",
    "Settings",
    "Tested",
    "Votes",
    "find_principles",
    "write_report",
]
