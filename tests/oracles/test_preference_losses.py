"""Our preference losses against TRL's: DPO, cDPO, robust DPO, IPO, SLiC, SPPO, KTO, f-DPO, SimPO, AlphaPO, WPO, RPO, XPO, Nash-MD.

TRL's labels are hard: p_first is 1 for its chosen completion. Where ours differs on purpose the test says why and by how much.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rewardmesh.trainer.losses.alpha_po import alpha_preference_loss
from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss, smoothed_labels
from rewardmesh.trainer.losses.f_dpo import Divergence, divergence_preference_loss
from rewardmesh.trainer.losses.gpo import PreferenceFunction, generalised_preference_loss
from rewardmesh.trainer.losses.hinge import hinge_preference_loss
from rewardmesh.trainer.losses.ipo import identity_preference_loss
from rewardmesh.trainer.losses.kto import kahneman_tversky_loss
from rewardmesh.trainer.losses.nash_md import nash_policy_loss
from rewardmesh.trainer.losses.rpo import likelihood_preference_loss
from rewardmesh.trainer.losses.simpo import simple_preference_loss
from rewardmesh.trainer.losses.sppo import self_play_loss
from rewardmesh.trainer.losses.wpo import policy_weighted_preference_loss
from rewardmesh.trainer.losses.xpo import exploratory_preference_loss

from .conftest import Oracle
from .drivers.harness import Inputs

pytestmark = [pytest.mark.oracles, pytest.mark.slow]

BETA = 0.1


def ratios(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """rho of the chosen and of the rejected, float64[P]."""
    chosen, rejected = inputs.sums
    reference_chosen, reference_rejected = inputs.reference_sums
    return chosen - reference_chosen, rejected - reference_rejected


def margin(inputs: Inputs) -> Tensor:
    """h, float64[P]."""
    chosen, rejected = ratios(inputs)
    return chosen - rejected


def certain(inputs: Inputs) -> Tensor:
    """Labels of 1, float64[P]."""
    return torch.ones(len(inputs.mask) // 2, dtype=torch.float64)


@pytest.fixture(params=["trl_0_28", "trl_1_16"])
def either(request: pytest.FixtureRequest) -> Oracle:
    oracle: Oracle = request.getfixturevalue(request.param)
    return oracle


def test_dpo(either: Oracle) -> None:
    either.agrees("dpo", lambda inputs: sigmoid_preference_loss(margin(inputs), certain(inputs), BETA))


def test_conservative_dpo_is_a_soft_label(trl_0_28: Oracle) -> None:
    trl_0_28.agrees("cdpo", lambda inputs: sigmoid_preference_loss(margin(inputs), smoothed_labels(certain(inputs), 0.2), BETA))


def test_robust_dpo_is_a_label_beyond_one(either: Oracle) -> None:
    """The unbiased loss under label noise e is linear in the label, which becomes (1 - e) / (1 - 2e)."""
    either.agrees("robust", lambda inputs: sigmoid_preference_loss(margin(inputs), certain(inputs) * 0.8 / 0.6, BETA))


def test_ipo_of_sums(trl_0_28: Oracle) -> None:
    trl_0_28.agrees("ipo", lambda inputs: identity_preference_loss(margin(inputs), certain(inputs), BETA))


def test_ipo_of_means_is_the_length_normalised_one(trl_1_16: Oracle) -> None:
    def ours(inputs: Inputs) -> Tensor:
        chosen, rejected = ratios(inputs)
        chosen_length, rejected_length = inputs.mask.sum(1).chunk(2)
        return identity_preference_loss(chosen / chosen_length - rejected / rejected_length, certain(inputs), BETA)

    trl_1_16.agrees("ipo", ours)


def test_slic(either: Oracle) -> None:
    either.agrees("hinge", lambda inputs: hinge_preference_loss(margin(inputs), certain(inputs), BETA))


@pytest.mark.parametrize(("function", "name"), [("logistic", "dpo"), ("hinge", "hinge")])
def test_gpo_contains_dpo_and_slic(either: Oracle, function: PreferenceFunction, name: str) -> None:
    either.agrees(name, lambda inputs: generalised_preference_loss(margin(inputs), certain(inputs), BETA, function))


def test_hard_sppo_is_two_unpaired_terms(either: Oracle) -> None:
    def ours(inputs: Inputs) -> Tensor:
        won, lost = ratios(inputs)
        return self_play_loss(won, certain(inputs), BETA) + self_play_loss(lost, 1 - certain(inputs), BETA)

    either.agrees("sppo", ours)


@pytest.mark.parametrize(("name", "divergence"), [("f_dpo/js", "jensen_shannon"), ("f_dpo/forward_kl", "forward_kl")])
def test_f_dpo(either: Oracle, name: str, divergence: Divergence) -> None:
    """In 0.28 the forward KL is the alpha divergence with alpha 1."""
    either.agrees(name, lambda inputs: divergence_preference_loss(*ratios(inputs), certain(inputs), BETA, divergence))


def test_f_dpo_with_the_alpha_divergence(trl_0_28: Oracle) -> None:
    """Of the paper's form; 1.16 has another parametrisation, and refuses float64 there."""
    trl_0_28.agrees("f_dpo/alpha", lambda inputs: divergence_preference_loss(*ratios(inputs), certain(inputs), BETA, "alpha", 0.5))


def test_simpo(trl_0_28: Oracle) -> None:
    def ours(inputs: Inputs) -> Tensor:
        chosen, rejected = inputs.means
        return simple_preference_loss(chosen - rejected, certain(inputs), 2.5, 1.375)

    trl_0_28.agrees("simpo", ours)


def test_smoothed_simpo_asks_the_margin_of_either_side(trl_0_28: Oracle) -> None:
    """On purpose: TRL's smoothing flips beta h - gamma as a whole, so that the rejected is let off the margin; ours is symmetric.

    Theirs of a flipped label is -log sigmoid(gamma - beta h), ours -log sigmoid(-gamma - beta h).
    """
    inputs = trl_0_28.inputs()
    chosen, rejected = (mean.detach() for mean in inputs.means)
    labels = smoothed_labels(certain(inputs), 0.1)
    ours = simple_preference_loss(chosen - rejected, labels, 2.0, 0.5)
    swapped = simple_preference_loss(rejected - chosen, 1 - labels, 2.0, 0.5)
    torch.testing.assert_close(ours, swapped)
    off = torch.nn.functional.logsigmoid(0.5 - 2 * (chosen - rejected)) - torch.nn.functional.logsigmoid(-0.5 - 2 * (chosen - rejected))
    torch.testing.assert_close(ours - 0.1 * off, trl_0_28.value("simpo/smoothed"), rtol=1e-6, atol=1e-6)
    assert float((0.1 * off).min()) > 1e-3


def test_alpha_po(trl_0_28: Oracle) -> None:
    trl_0_28.agrees("alpha_po", lambda inputs: alpha_preference_loss(*inputs.means, certain(inputs), 2.5, 0.3, 0.25))


@pytest.mark.parametrize(("name", "weights"), [("kto", (1.0, 1.0)), ("kto/weights", (1.3, 0.7))])
def test_kto(either: Oracle, name: str, weights: tuple[float, float]) -> None:
    def ours(inputs: Inputs) -> Tensor:
        ratio, desirable = torch.cat(ratios(inputs)), torch.cat([certain(inputs), 1 - certain(inputs)])
        return kahneman_tversky_loss(ratio, desirable, float(ratio.detach().mean()), BETA, *weights)

    either.agrees(name, ours)


def test_wpo(trl_1_16: Oracle) -> None:
    """Without the alignment of the weights, which needs whole distributions (losses/wpo.py); the driver takes it out of TRL's."""

    def ours(inputs: Inputs) -> Tensor:
        return policy_weighted_preference_loss(margin(inputs), *inputs.means, certain(inputs), BETA)

    trl_1_16.agrees("wpo", ours)


def test_rpo(trl_1_16: Oracle) -> None:
    """TRL's likelihood term is a mean over all chosen tokens of the batch, ours of each completion: the same for one pair at a time."""

    def ours(inputs: Inputs) -> Tensor:
        chosen, rejected = inputs.means
        return likelihood_preference_loss(margin(inputs), -chosen, -rejected, certain(inputs), BETA, 0.5)

    trl_1_16.agrees("rpo", ours)


def test_xpo(trl_0_28: Oracle) -> None:
    trl_0_28.agrees("xpo", lambda inputs: exploratory_preference_loss(margin(inputs), inputs.sums[1], inputs["first_wins"], BETA, 0.01))


def nash_loss(inputs: Inputs, tokens: int | None = None) -> Tensor:
    """Our Nash-MD loss per sequence, of only the first tokens if asked."""
    log_probs, reference = (inputs.log_probs * inputs.mask)[:, :tokens], (inputs["reference"] * inputs.mask)[:, :tokens]
    return nash_policy_loss(log_probs.sum(1), (log_probs - reference).sum(1), inputs["win_probability"], BETA)


def test_nash_md_of_one_token(trl_0_28: Oracle) -> None:
    trl_0_28.agrees("nash_md/one_token", lambda inputs: nash_loss(inputs, tokens=1))


def test_nash_md_keeps_the_cross_terms_of_the_kl(trl_0_28: Oracle) -> None:
    """On purpose: TRL multiplies each token's log-ratio with its own log-probability only, which is not the gradient of a KL.

    Ours less theirs is beta * sum over s != t of rho_s log pi_t; where it leads is in tests/trainer/test_exact_optima.py.
    """
    inputs = trl_0_28.inputs()
    log_probs, reference = inputs.log_probs.detach() * inputs.mask, inputs["reference"] * inputs.mask
    rho = log_probs - reference
    cross = BETA * (rho.sum(1) * log_probs.sum(1) - (rho * log_probs).sum(1))
    torch.testing.assert_close((nash_loss(inputs) - cross).mean().detach(), trl_0_28.value("nash_md"), rtol=1e-6, atol=1e-6)
    assert float(cross.abs().max()) > 0.01
