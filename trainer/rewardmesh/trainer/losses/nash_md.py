"""Nash-MD: policy gradient on the win probability against a mixture of policy and reference.

Munos et al. 2023 (arXiv 2312.00886), section 7: -(P(y beats y') - 1/2) log pi(y) + beta sg(rho) log pi(y), y ~ pi, y' from the mixture,
sg without gradient. rho is the log-ratio of the whole completion: multiplying each token's log-ratio with its own log-probability
only, as is common, drops the cross terms of the KL's gradient and converges elsewhere.
"""

from torch import Tensor


def nash_policy_loss(log_prob: Tensor, log_ratio: Tensor, win_probability: Tensor, beta: float) -> Tensor:
    """Loss per completion of the policy, Tensor[S]; only its gradient has a meaning.

    `log_prob` Tensor[S]: sum over completion tokens of log pi; `log_ratio` Tensor[S]: the same of log pi - log pi_ref (nats);
    `win_probability` Tensor[S] in [0, 1], against completions of the opponent.
    """
    return (beta * log_ratio.detach() - (win_probability - 0.5)) * log_prob
