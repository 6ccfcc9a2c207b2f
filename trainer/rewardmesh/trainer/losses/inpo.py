"""INPO: a step of online mirror descent towards the regularised Nash policy, as a squared loss on pairs.

Zhang et al. 2024 (arXiv 2407.00617), equation 5: (h - 1 / (2 eta))^2 for the better of two completions of pi_t, with
h = log pi(y)/pi(y') - (tau/eta) log pi_ref(y)/pi_ref(y') - (1 - tau/eta) log pi_t(y)/pi_t(y'). That is identity preference optimisation
against a mixture of the reference and the previous policy; tau is the strength of the KL anchor, eta >= tau the inverse step size.
Departure: soft labels, with which the loss is that of the expected label.
"""

from torch import Tensor

from rewardmesh.trainer.losses.ipo import identity_preference_loss


def iterative_nash_loss(
    margin: Tensor, reference_margin: Tensor, previous_margin: Tensor, p_first: Tensor, eta: float, tau: float
) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin`, `reference_margin`, `previous_margin` Tensor[P]: difference, first less second, of the completions' log-probabilities (sums
    over tokens, nats) under pi, under the reference, and under the policy that sampled them; `p_first` Tensor[P] in [0, 1].
    """
    anchor = (tau / eta) * reference_margin + (1 - tau / eta) * previous_margin
    return identity_preference_loss(margin - anchor, p_first, eta)
