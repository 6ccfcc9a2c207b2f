"""Our policy on a batch that is given: `Policy.backward`, and `Policy.update` as the training loop calls it.

    python -m benchmarks.trainer.ours MODEL BATCH --threads 2 [--without sharing|packing]

`--without sharing` lays the sequences end to end and computes every prompt with each of its answers; `--without packing` is what a trainer
does without the packed forward: transformers' own forward on sequences padded to the longest of their micro-batch. Loss, head, clipping and
optimiser stay ours.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.trainer.batch import make_algorithm, make_credit
from benchmarks.trainer.worker import Update, read_batch, serve
from rewardmesh.engine import forward
from rewardmesh.engine.log_probs import differentiable_log_probs
from rewardmesh.engine.packing import make_plan
from rewardmesh.serving.memory import keep_freed_memory
from rewardmesh.trainer.policy import Policy
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import Rollout


class PaddedPolicy(Policy):
    """The same without the packed forward."""

    def log_probs(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        """See `Policy`."""
        ids = [torch.from_numpy(np.concatenate([r.prompt_ids, r.completion_ids[:-1]]).astype(np.int64)) for r in rollouts]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        lengths = torch.tensor([len(each) for each in ids])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        states = self.model.base_model(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state
        wanted = [states[i, len(r.prompt_ids) - 1 : len(each)] for i, (r, each) in enumerate(zip(rollouts, ids, strict=True))]
        targets = torch.from_numpy(np.concatenate([r.completion_ids for r in rollouts]).astype(np.int64))
        return differentiable_log_probs(self.model, torch.cat(wanted), targets)


def main() -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    options = _options()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    algorithm = make_algorithm()
    credit = make_credit(read_batch(options.batch))
    recipe = _recipe(options)
    policy = (PaddedPolicy if options.without == "packing" else Policy)(recipe, algorithm, options.model)
    if options.without == "packing":
        policy.model.set_attn_implementation("sdpa")
    if options.without == "sharing":
        forward.make_plan = functools.partial(make_plan, min_shared_tokens=2**31)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)

    def gradient(path: Path) -> Update:
        policy.optimiser.zero_grad()
        metrics = policy.backward(algorithm, credit)
        gradients = {name: p.grad.contiguous().clone() for name, p in policy.model.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), torch.inf)
        save_file(gradients, path)
        policy.optimiser.zero_grad()
        return Update(metrics["loss"], float(norm))

    def step() -> Update:
        metrics = policy.update(algorithm, credit, rng)
        return Update(metrics["loss"], metrics["grad_norm"])

    about: dict[str, Any] = {
        "parameters": policy.model.num_parameters(),
        "tokens_read": sum(len(r.prompt_ids) + r.length for r in credit.rollouts),
        "packed": not policy.why_plain,
    }
    serve(step, gradient, about, replies)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("batch", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--without", choices=("", "sharing", "packing"), default="")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    return parser.parse_args()


def _recipe(options: argparse.Namespace) -> Recipe:
    """Of all the recipe only the policy, the temperature and the optimiser are read here."""
    return Recipe.parse(
        {
            "run_dir": options.batch.parent,
            "policy": options.model,
            "prompts": {"path": options.batch},
            "services": {"gateway": "127.0.0.1:1", "generation": "127.0.0.1:1"},
            "algorithm": {"name": "grpo", "kl_in": "none", "kl_coef": 0.0},
            "optimiser": {"learning_rate": options.learning_rate, "micro_batch_tokens": options.micro_batch_tokens},
        }
    )


if __name__ == "__main__":
    main()
