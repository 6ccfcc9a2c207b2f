"""TRL's GRPO trainer on a batch that is given: its own `training_step`, `compute_loss`, clipping and optimiser, without its generation.

    python -m benchmarks.trainer.peer_trl MODEL BATCH --threads 2 --per-device 8 [--padding micro-batch]

Runs in the environment of TRL (`make .venv-trl-1.16/.ready`). Settings are chosen for speed on a CPU: float32, no gradient checkpointing,
fused AdamW, no reference model (beta 0). `generation` pads as the trainer does, every sequence to the longest prompt and the longest
completion of the whole batch; `micro-batch` sorts the sequences by length and pads to the longest of each micro-batch, which the trainer
itself does not do.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl import __version__ as trl_version

from benchmarks.trainer.worker import Sequence, Update, read_batch, serve

Inputs = dict[str, torch.Tensor]


def main() -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    options = _options()
    torch.set_num_threads(options.threads)
    batch = read_batch(options.batch)
    trainer = _trainer(options, len(batch))
    parts = _micro_batches(batch, options.per_device, options.padding, trainer.processing_class.pad_token_id)
    model = trainer.model

    def accumulate() -> float:
        trainer.current_gradient_accumulation_steps = len(parts)
        return sum(float(trainer.training_step(model, part, None)) for part in parts)

    def gradient(path: Path) -> Update:
        loss = accumulate()
        gradients = {name: p.grad.contiguous().clone() for name, p in model.named_parameters()}
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), torch.inf)
        save_file(gradients, path)
        model.zero_grad()
        return Update(loss, float(norm))

    def step() -> Update:
        loss = accumulate()
        norm = trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        model.zero_grad()
        return Update(loss, float(norm))

    padded = sum(part["prompt_ids"].numel() + part["completion_ids"].numel() for part in parts)
    versions = {"trl": trl_version, "torch": torch.__version__, "transformers": sys.modules["transformers"].__version__}
    serve(step, gradient, {"tokens_computed": padded, "versions": versions}, replies)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("batch", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--per-device", type=int, required=True)
    parser.add_argument("--padding", choices=("generation", "micro-batch"), default="generation")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    return parser.parse_args()


def _trainer(options: argparse.Namespace, sequences: int) -> Any:
    args = GRPOConfig(
        output_dir=str(options.batch.parent / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=options.per_device,
        gradient_accumulation_steps=-(-sequences // options.per_device),
        num_generations=4,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "never read"}] * sequences),
    )
    trainer.create_optimizer()
    trainer.model.train()
    trainer._prepare_inputs = lambda inputs: inputs  # the batch is given: nothing is generated
    return trainer


def _micro_batches(batch: list[Sequence], size: int, padding: str, pad_id: int) -> list[Inputs]:
    if padding == "micro-batch":
        batch = sorted(batch, key=lambda sequence: len(sequence.prompt) + len(sequence.completion))
    tokens = sum(len(sequence.completion) for sequence in batch)
    whole = (max(len(s.prompt) for s in batch), max(len(s.completion) for s in batch))
    parts = []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        own = (max(len(s.prompt) for s in part), max(len(s.completion) for s in part))
        prompt, completion = whole if padding == "generation" else own
        parts.append(_padded(part, prompt, completion, tokens, pad_id))
    return parts


def _padded(part: list[Sequence], prompt: int, completion: int, tokens: int, pad_id: int) -> Inputs:
    """Prompts filled on the left, completions on the right, as the trainer does."""
    before = [prompt - len(s.prompt) for s in part]
    after = [completion - len(s.completion) for s in part]
    pairs = list(zip(part, before, after, strict=True))
    return {
        "prompt_ids": torch.tensor([[pad_id] * b + s.prompt for s, b, _ in pairs]),
        "prompt_mask": torch.tensor([[0] * b + [1] * len(s.prompt) for s, b, _ in pairs]),
        "completion_ids": torch.tensor([s.completion + [pad_id] * a for s, _, a in pairs]),
        "completion_mask": torch.tensor([[1] * len(s.completion) + [0] * a for s, _, a in pairs]),
        "old_per_token_logps": torch.tensor([s.old_log_probs + [0.0] * a for s, _, a in pairs]),
        "advantages": torch.tensor([s.advantage for s in part]),
        "num_items_in_batch": torch.tensor(tokens),
    }


if __name__ == "__main__":
    main()
