"""Credit: from scored groups to tensors a loss can use, with everything left out counted."""

from rewardmesh.trainer.credit.aggregation import Aggregation, aggregation_weights
from rewardmesh.trainer.credit.base import Credit, CreditRow
from rewardmesh.trainer.credit.baselines import Baseline, baseline_advantages, group_mean, group_standard, leave_one_out
from rewardmesh.trainer.credit.batches import micro_batches, minibatches
from rewardmesh.trainer.credit.importance import ImportanceCorrection, importance_weights
from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.credit.macros import macro_starts
from rewardmesh.trainer.credit.pairs import PairCredit, pair_credit
from rewardmesh.trainer.credit.returns import Whitening, return_credit
from rewardmesh.trainer.credit.scores import ScoreRule
from rewardmesh.trainer.credit.sequences import SequenceCredit, sequence_credit
from rewardmesh.trainer.credit.statistics import RunningStatistics
from rewardmesh.trainer.credit.tokens import TokenCredit, token_credit
from rewardmesh.trainer.credit.weighted import WeightedCredit, weighted_credit

__all__ = [
    "Aggregation",
    "Baseline",
    "Credit",
    "CreditRow",
    "ImportanceCorrection",
    "PairCredit",
    "RunningStatistics",
    "ScoreRule",
    "SequenceCredit",
    "TokenCredit",
    "TokenLayout",
    "WeightedCredit",
    "Whitening",
    "aggregation_weights",
    "baseline_advantages",
    "group_mean",
    "group_standard",
    "importance_weights",
    "leave_one_out",
    "macro_starts",
    "micro_batches",
    "minibatches",
    "pair_credit",
    "return_credit",
    "sequence_credit",
    "token_credit",
    "weighted_credit",
]
