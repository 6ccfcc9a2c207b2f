"""TRL 1.16: losses are written out in the trainers' methods. These run on trainers without a model: a stand-in gives the log-probabilities.

A prompt of one token precedes each completion. Attributes that only metrics read hold zeros.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from torch import Tensor  # noqa: E402
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer  # noqa: E402

from oracles.drivers.harness import Case, Inputs, evaluate  # noqa: E402

ACCELERATOR = Accelerator(cpu=True)


def without_model(trainer_class: type[Any], **attributes: Any) -> Any:
    """A trainer whose `__init__` did not run, in evaluation mode: no gradient accumulation, nothing counted."""
    trainer = object.__new__(trainer_class)
    common = {
        "accelerator": ACCELERATOR,
        "model": SimpleNamespace(training=False),
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "aux_loss_enabled": False,
        "_total_train_tokens": 0,
    }
    for name, value in (common | attributes).items():
        setattr(trainer, name, value)
    return trainer


class Outputs:
    """A model's outputs over the tokens after the first, which are the completion's.

    Sums of squared probabilities are 1, as of a distribution that is sure, which takes the alignment out of WPO's weights.
    """

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = log_probs
        self.log_sum_sq_probs = self.entropy = self.mean_logits = torch.zeros_like(log_probs)
        self.is_top1 = torch.zeros_like(log_probs, dtype=torch.bool)


def with_prompt(mask: Tensor) -> Tensor:
    """[B, T] -> [B, T + 1]: the mask of a prompt token in front of the completion's."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)


def dpo(
    *losses: str,
    beta: float = 0.1,
    smoothing: float = 0.0,
    divergence: str = "reverse_kl",
    weights: Sequence[float] = (1.0,),
    weighted: bool = False,
) -> Case:
    """`DPOTrainer._compute_loss`: the mean over pairs of the weighted sum of `losses`; `weighted` by policy probabilities (WPO)."""

    def case(inputs: Inputs) -> Tensor:
        trainer = without_model(
            DPOTrainer,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type=divergence,
            loss_types=losses,
            loss_weights=weights,
            beta=beta,
            label_smoothing=smoothing,
            use_weighting=weighted,
        )
        chosen, rejected = inputs.reference_sums
        completion = with_prompt(inputs.mask)
        batch = {
            "input_ids": torch.zeros_like(completion, dtype=torch.long),
            "attention_mask": torch.ones_like(completion),
            "completion_mask": completion,
            "ref_chosen_logps": chosen,
            "ref_rejected_logps": rejected,
        }
        outputs = Outputs(inputs.log_probs * inputs.mask)
        loss: Tensor = DPOTrainer._compute_loss(trainer, lambda **_: outputs, batch, return_outputs=False)
        return loss

    return case


def one_pair_at_a_time(case: Case) -> Case:
    """The losses of batches of one pair each: where a trainer averages over the tokens of its batch, these are those of one completion."""

    def each(inputs: Inputs) -> Tensor:
        pairs = len(inputs.mask) // 2
        return torch.stack([case(inputs.select([pair, pair + pairs])) for pair in range(pairs)])

    return each


def kto(*, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Case:
    """`KTOTrainer._compute_loss`: the mean over sequences; the chosen ones are desirable, the batch is also the sample of the KL."""

    def case(inputs: Inputs) -> Tensor:
        trainer = without_model(
            KTOTrainer,
            precompute_ref_logps=True,
            calculate_KL=True,
            loss_type="kto",
            beta=beta,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
        )
        completion = with_prompt(inputs.mask)
        ids, reference = torch.zeros_like(completion, dtype=torch.long), (inputs["reference"] * inputs.mask).sum(1)
        half = len(ids) // 2
        batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "completion_mask": completion,
            "KL_input_ids": ids,
            "KL_attention_mask": torch.ones_like(ids),
            "KL_completion_mask": completion,
            "label": torch.tensor([True] * half + [False] * half),
            "ref_logps": reference,
            "ref_KL_logps": reference,
        }
        outputs = Outputs(inputs.log_probs * inputs.mask)
        loss: Tensor = KTOTrainer._compute_loss(trainer, lambda **_: outputs, batch, return_outputs=False)
        return loss

    return case


def scored_batch(inputs: Inputs, scores: Case) -> dict[str, Tensor]:
    """The batch of GRPO's and RLOO's losses; `scores` gives one advantage per sequence."""
    ids = torch.zeros_like(inputs.mask, dtype=torch.long)
    return {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": inputs.mask,
        "advantages": scores(inputs).detach(),
        "old_per_token_logps": inputs["old"],
        "old_logps": (inputs["old"] * inputs.mask).sum(1),
        "ref_per_token_logps": inputs["reference"],
        "num_items_in_batch": inputs.mask.sum(),
    }


def grpo(
    loss_type: str,
    *,
    scale: str = "group",
    level: str = "token",
    low: float = 0.2,
    high: float = 0.2,
    kl_coef: float = 0.0,
    delta: float | None = None,
    max_length: int = 16,
) -> Case:
    """`GRPOTrainer._compute_loss`: the loss of the batch in that variant's own aggregation."""

    def case(inputs: Inputs) -> Tensor:
        trainer = without_model(
            GRPOTrainer,
            args=SimpleNamespace(delta=delta, use_bias_correction_kl=False),
            _get_per_token_logps_and_entropies=lambda *_, **__: (inputs.log_probs, torch.zeros_like(inputs.mask), None),
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=level,
            beta=kl_coef,
            loss_type=loss_type,
            epsilon_low=low,
            epsilon_high=high,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            max_completion_length=max_length,
            _entropy_bonus_enabled=False,
        )
        loss: Tensor = GRPOTrainer._compute_loss(trainer, None, scored_batch(inputs, advantages(GRPOTrainer, scale_rewards=scale)))
        return loss

    return case


RLOO: dict[str, Any] = {"kl_coef": 0.05, "reward_clip_range": None, "normalize_advantages": False}


def rloo(inputs: Inputs) -> Tensor:
    """`RLOOTrainer._compute_loss`: the mean over sequences."""
    trainer = without_model(
        RLOOTrainer,
        _get_per_token_logps_and_entropies=lambda *_, **__: (inputs.log_probs, torch.zeros_like(inputs.mask), None),
        epsilon_low=0.2,
        epsilon_high=0.2,
    )
    loss: Tensor = RLOOTrainer._compute_loss(trainer, None, scored_batch(inputs, advantages(RLOOTrainer, **RLOO)))
    return loss


def advantages(trainer_class: type[Any], *, kl_coef: float = 0.0, rewards: str = "rewards", **attributes: Any) -> Case:
    """`_generate_and_score_completions` on given completions and rewards, four to a prompt: float64[B]; an unscorable one has 0."""

    def case(inputs: Inputs) -> Tensor:
        lengths = [int(length) for length in inputs.mask.sum(1)]
        given, completions = inputs[rewards], [[1] * length for length in lengths]
        old, reference, model = inputs["old"], inputs["reference"], object()
        prompts = [[1] for _ in lengths]
        trainer = without_model(
            trainer_class,
            environment_factories=None,
            tools=None,
            environments=None,
            _tokenizer=SimpleNamespace(pad_token_id=0),
            pad_to_multiple_of=None,
            mask_truncated_completions=False,
            args=SimpleNamespace(
                per_device_eval_batch_size=len(lengths),
                steps_per_generation=1,
                gradient_accumulation_steps=1,
                gradient_checkpointing_kwargs=None,
            ),
            num_iterations=1,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            beta=kl_coef,
            ref_model=model,
            num_generations_eval=4,
            reward_weights=torch.ones(1, dtype=torch.float64),
            reward_funcs=[None],
            reward_func_names=["given"],
            multi_objective_aggregation="sum_then_normalize",
            _logs={"prompt": [], "completion": [], "rewards": defaultdict(list), "advantages": [], "extra": defaultdict(list)},
            _pending_extra_logs={},
            _pending_metrics={},
            _calculate_rewards=lambda *_: given.unsqueeze(1).clone(),
            _get_per_token_logps_and_entropies=lambda which, *_, **__: (reference if which is model else old, None, None),
            **attributes,
        )
        trainer.model.is_gradient_checkpointing = False
        rloo_answer = (prompts, completions, completions)
        trainer._generate = lambda _: (
            rloo_answer if trainer_class is RLOOTrainer else (prompts, completions, None, completions, None, {}, None, None)
        )
        scored = trainer_class._generate_and_score_completions(trainer, [{"prompt": "p"} for _ in lengths])
        result: Tensor = scored["advantages"]
        return result

    return case


CASES: dict[str, Case] = {
    "dpo": dpo("sigmoid"),
    "robust": dpo("robust", smoothing=0.2),
    "hinge": dpo("hinge"),
    "ipo": dpo("ipo"),
    "sppo": dpo("sppo_hard"),
    "f_dpo/forward_kl": dpo("sigmoid", divergence="forward_kl"),
    "f_dpo/js": dpo("sigmoid", divergence="js_divergence"),
    "wpo": dpo("sigmoid", weighted=True),
    "rpo": one_pair_at_a_time(dpo("sigmoid", "sft", weights=(1.0, 0.5))),
    "kto": kto(),
    "kto/weights": kto(desirable=1.3, undesirable=0.7),
    "grpo": grpo("grpo"),
    "grpo/kl": grpo("grpo", kl_coef=0.04),
    "bnpo": grpo("bnpo"),
    "dr_grpo": grpo("dr_grpo", scale="none"),
    "dapo": grpo("dapo", high=0.28),
    "dapo/two_sided": grpo("dapo", high=0.28, delta=1.6),
    "gspo": grpo("grpo", level="sequence", low=0.03, high=0.04),
    "cispo": grpo("cispo", high=1.1),
    "rloo": rloo,
    "advantages/grpo": advantages(GRPOTrainer, scale_rewards="group"),
    "advantages/dr_grpo": advantages(GRPOTrainer, scale_rewards="none"),
    "advantages/rloo": advantages(RLOOTrainer, **RLOO),
    "advantages/rloo_absent": advantages(RLOOTrainer, rewards="rewards_absent", **RLOO),
    "advantages/grpo_absent": advantages(GRPOTrainer, rewards="rewards_absent", scale_rewards="group"),
}

if __name__ == "__main__":
    evaluate(CASES)
