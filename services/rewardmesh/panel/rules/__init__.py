"""The rules of panels, by name: one file each."""

from collections.abc import Mapping

from rewardmesh.panel.rules.base import METHODS, Answerer, Method, Rule
from rewardmesh.panel.rules.cascade import Cascade
from rewardmesh.panel.rules.constraints import Constraints
from rewardmesh.panel.rules.critics import Critics
from rewardmesh.panel.rules.debate import Debate
from rewardmesh.panel.rules.hindsight import Hindsight
from rewardmesh.panel.rules.jury import Jury
from rewardmesh.panel.rules.repeats import Repeats
from rewardmesh.panel.rules.self_consistency import SelfConsistency

RULES: Mapping[str, type[Rule]] = {
    "jury": Jury,
    "cascade": Cascade,
    "debate": Debate,
    "hindsight": Hindsight,
    "constraints": Constraints,
    "self_consistency": SelfConsistency,
    "critics": Critics,
    "repeats": Repeats,
}

__all__ = ["METHODS", "RULES", "Answerer", "Method", "Rule"]
