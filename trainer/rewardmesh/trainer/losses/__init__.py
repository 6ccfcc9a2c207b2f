"""Pure losses: tensors in, one loss per pair or per token out; reduction and weights are the algorithms' business."""

from rewardmesh.trainer.losses.alpha_po import alpha_preference_loss
from rewardmesh.trainer.losses.apa import squared_advantage_loss
from rewardmesh.trainer.losses.cispo import capped_importance_loss
from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss, smoothed_labels
from rewardmesh.trainer.losses.f_dpo import divergence_preference_loss
from rewardmesh.trainer.losses.gae import generalised_advantages, whiten
from rewardmesh.trainer.losses.gpo import generalised_preference_loss
from rewardmesh.trainer.losses.hinge import hinge_preference_loss
from rewardmesh.trainer.losses.inpo import iterative_nash_loss
from rewardmesh.trainer.losses.ipo import identity_preference_loss
from rewardmesh.trainer.losses.kl import KL_ESTIMATORS, AdaptiveKL, KLEstimator, k1, k2, k3
from rewardmesh.trainer.losses.kto import kahneman_tversky_loss
from rewardmesh.trainer.losses.likelihood import weighted_likelihood_loss
from rewardmesh.trainer.losses.macro import macro_index, macro_sum
from rewardmesh.trainer.losses.nash_md import nash_policy_loss
from rewardmesh.trainer.losses.optune import gap_weighted_preference_loss
from rewardmesh.trainer.losses.p3o import joint_pairwise_loss, separate_pairwise_loss
from rewardmesh.trainer.losses.ppo import clipped_policy_loss, clipped_value_loss
from rewardmesh.trainer.losses.pro import ranking_loss
from rewardmesh.trainer.losses.reinforce import reinforce_loss
from rewardmesh.trainer.losses.rpo import likelihood_preference_loss
from rewardmesh.trainer.losses.rrhf import ranking_hinge_loss
from rewardmesh.trainer.losses.seppo import semi_policy_preference_loss
from rewardmesh.trainer.losses.sequence_ratio import clipped_sequence_loss
from rewardmesh.trainer.losses.simpo import simple_preference_loss
from rewardmesh.trainer.losses.spo import self_play_policy_loss
from rewardmesh.trainer.losses.sppo import self_play_loss
from rewardmesh.trainer.losses.tgdpo import token_guidance, token_guided_preference_loss
from rewardmesh.trainer.losses.vpo import value_incentivised_preference_loss
from rewardmesh.trainer.losses.wpo import policy_weighted_preference_loss
from rewardmesh.trainer.losses.xpo import exploratory_preference_loss

__all__ = [
    "KL_ESTIMATORS",
    "AdaptiveKL",
    "KLEstimator",
    "alpha_preference_loss",
    "capped_importance_loss",
    "clipped_policy_loss",
    "clipped_sequence_loss",
    "clipped_value_loss",
    "divergence_preference_loss",
    "exploratory_preference_loss",
    "gap_weighted_preference_loss",
    "generalised_advantages",
    "generalised_preference_loss",
    "hinge_preference_loss",
    "identity_preference_loss",
    "iterative_nash_loss",
    "joint_pairwise_loss",
    "k1",
    "k2",
    "k3",
    "kahneman_tversky_loss",
    "likelihood_preference_loss",
    "macro_index",
    "macro_sum",
    "nash_policy_loss",
    "policy_weighted_preference_loss",
    "ranking_hinge_loss",
    "ranking_loss",
    "reinforce_loss",
    "self_play_loss",
    "self_play_policy_loss",
    "semi_policy_preference_loss",
    "separate_pairwise_loss",
    "sigmoid_preference_loss",
    "simple_preference_loss",
    "smoothed_labels",
    "squared_advantage_loss",
    "token_guidance",
    "token_guided_preference_loss",
    "value_incentivised_preference_loss",
    "weighted_likelihood_loss",
    "whiten",
]
