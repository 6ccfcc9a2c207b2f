"""Credit: from scored groups to tensors a loss can use, with everything left out counted."""

from rewardmesh.trainer.credit.base import Credit, CreditRow
from rewardmesh.trainer.credit.batches import micro_batches, minibatches
from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.credit.pairs import PairCredit, pair_credit
from rewardmesh.trainer.credit.tokens import TokenCredit, token_credit

__all__ = ["Credit", "CreditRow", "PairCredit", "TokenCredit", "TokenLayout", "micro_batches", "minibatches", "pair_credit", "token_credit"]
