"""Mathematical answers: what a text states, of which kind it is, and whether it equals a reference."""

from rewardmesh.verifier.math.equality import Match, Rules, compare
from rewardmesh.verifier.math.gold import Gold, read_gold

__all__ = ["Gold", "Match", "Rules", "compare", "read_gold"]
