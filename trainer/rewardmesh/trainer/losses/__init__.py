"""Pure losses: tensors in, one loss per pair or per token out; reduction and weights are the algorithms' business."""

from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss
from rewardmesh.trainer.losses.gae import generalised_advantages, whiten
from rewardmesh.trainer.losses.hinge import hinge_preference_loss
from rewardmesh.trainer.losses.ipo import identity_preference_loss
from rewardmesh.trainer.losses.kl import AdaptiveKL, k1, k2, k3
from rewardmesh.trainer.losses.ppo import clipped_policy_loss, clipped_value_loss

__all__ = [
    "AdaptiveKL",
    "clipped_policy_loss",
    "clipped_value_loss",
    "generalised_advantages",
    "hinge_preference_loss",
    "identity_preference_loss",
    "k1",
    "k2",
    "k3",
    "sigmoid_preference_loss",
    "whiten",
]
