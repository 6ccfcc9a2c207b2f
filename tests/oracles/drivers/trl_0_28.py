"""TRL 0.28: preference losses are methods that read a few attributes of the trainer, so stand-ins for the trainer suffice."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

warnings.simplefilter("ignore")

from accelerate import Accelerator  # noqa: E402
from torch import Tensor  # noqa: E402
from trl import DPOTrainer  # noqa: E402
from trl.experimental.cpo import CPOTrainer  # noqa: E402
from trl.experimental.kto import KTOTrainer  # noqa: E402
from trl.experimental.nash_md import NashMDTrainer  # noqa: E402
from trl.experimental.ppo.ppo_trainer import masked_whiten  # noqa: E402
from trl.experimental.xpo import XPOTrainer  # noqa: E402
from trl.trainer.dpo_config import FDivergenceConstants, FDivergenceType  # noqa: E402

from oracles.drivers.harness import Case, Inputs, evaluate  # noqa: E402
from oracles.drivers.ppo_step import PARTS, ppo_step  # noqa: E402

ACCELERATOR = Accelerator(cpu=True)


def dpo(
    loss_type: str,
    *,
    beta: float = 0.1,
    smoothing: float = 0.0,
    divergence: FDivergenceType = FDivergenceType.REVERSE_KL,
    alpha: float = 0.5,
) -> Case:
    """`DPOTrainer.dpo_loss`, one loss per pair."""

    def case(inputs: Inputs) -> Tensor:
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR,
            beta=beta,
            label_smoothing=smoothing,
            reference_free=False,
            f_divergence_type=divergence,
            f_divergence_params={FDivergenceConstants.ALPHA_DIVERGENCE_COEF_KEY: alpha},
        )
        losses: Tensor = DPOTrainer.dpo_loss(trainer, *inputs.sums, *inputs.reference_sums, loss_type)[0]
        return losses

    return case


def cpo(loss_type: str, *, beta: float, gamma: float = 0.0, alpha: float = 0.0, smoothing: float = 0.0) -> Case:
    """`CPOTrainer.cpo_loss` on mean log-probabilities, as its SimPO and AlphaPO take them; one loss per pair."""

    def case(inputs: Inputs) -> Tensor:
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR, beta=beta, alpha=alpha, simpo_gamma=gamma, label_smoothing=smoothing, loss_type=loss_type
        )
        losses: Tensor = CPOTrainer.cpo_loss(trainer, *inputs.means)[0]
        return losses

    return case


def kto(*, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Case:
    """`KTOTrainer.kto_loss`, one loss per sequence; the chosen ones are desirable and the batch itself is the sample of the KL."""

    def case(inputs: Inputs) -> Tensor:
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR,
            beta=beta,
            loss_type="kto",
            calculate_KL=True,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
        )
        policy, reference = (inputs.log_probs * inputs.mask).sum(1), (inputs["reference"] * inputs.mask).sum(1)
        losses: Tensor = KTOTrainer.kto_loss(trainer, *inputs.sums, policy, *inputs.reference_sums, reference)[0]
        return losses

    return case


def nash_md(*, tokens: int | None = None) -> Case:
    """`NashMDTrainer._compute_losses`: a scalar; of only the first `tokens` tokens of each sequence if given."""

    def case(inputs: Inputs) -> Tensor:
        log_probs, reference = (inputs.log_probs * inputs.mask)[:, :tokens], (inputs["reference"] * inputs.mask)[:, :tokens]
        loss: Tensor = NashMDTrainer._compute_losses(SimpleNamespace(beta=0.1), log_probs, reference, inputs["win_probability"])[0]
        return loss

    return case


def xpo(inputs: Inputs) -> Tensor:
    """`XPOTrainer._compute_losses`: a scalar; the first half was sampled from the model, the second from the reference."""
    trainer = SimpleNamespace(beta=0.1, alpha=0.01, args=SimpleNamespace(loss_type="sigmoid"))
    model, other = (inputs.log_probs * inputs.mask).chunk(2)
    reference_model, reference_other = (inputs["reference"] * inputs.mask).chunk(2)
    wins = inputs["first_wins"].bool()
    loss: Tensor = XPOTrainer._compute_losses(trainer, model, other, reference_other, reference_model, wins)[0]
    return loss


def ppo(part: str) -> Case:
    """A part of `ppo_step`, which has inputs of its own."""
    return lambda _: ppo_step()[part]


CASES: dict[str, Case] = {
    "dpo": dpo("sigmoid"),
    "cdpo": dpo("sigmoid", smoothing=0.2),
    "robust": dpo("robust", smoothing=0.2),
    "ipo": dpo("ipo"),
    "hinge": dpo("hinge"),
    "sppo": dpo("sppo_hard"),
    "f_dpo/js": dpo("sigmoid", divergence=FDivergenceType.JS_DIVERGENCE),
    "f_dpo/alpha": dpo("sigmoid", divergence=FDivergenceType.ALPHA_DIVERGENCE, alpha=0.5),
    "f_dpo/forward_kl": dpo("sigmoid", divergence=FDivergenceType.ALPHA_DIVERGENCE, alpha=1.0),
    "simpo": cpo("simpo", beta=2.5, gamma=1.375),
    "simpo/smoothed": cpo("simpo", beta=2.0, gamma=0.5, smoothing=0.1),
    "alpha_po": cpo("simpo", beta=2.5, gamma=0.3, alpha=0.25),
    "kto": kto(),
    "kto/weights": kto(desirable=1.3, undesirable=0.7),
    "nash_md": nash_md(),
    "nash_md/one_token": nash_md(tokens=1),
    "xpo": xpo,
    "whiten": lambda inputs: masked_whiten(inputs["advantages"], inputs.mask.bool()),
    **{f"ppo/{part}": ppo(part) for part in PARTS},
}

if __name__ == "__main__":
    evaluate(CASES)
