"""The batch that every contender trains on: questions with four answers each, as token ids, with advantages and old log-probabilities.

Rewards are drawn at random (one seed), so that no group has equal ones; advantages are those that our GRPO makes of them. Old
log-probabilities lie about the policy's own, so that some ratios are clipped and some are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from benchmarks import _items
from benchmarks.trainer import worker
from rewardmesh.trainer.algorithms import Algorithm, load_algorithm
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.samples import Group, Rollout, Scores

OLD_LOG_PROB_SPREAD = 0.1


def make_algorithm() -> Algorithm:
    """GRPO as the peer computes it by default: standardised group advantages, mean over all tokens, no KL."""
    return load_algorithm("grpo", {"kl_in": "none", "kl_coef": 0.0, "aggregation": "token"})


def make_credit(sequences: Sequence[worker.Sequence]) -> TokenCredit:
    """What our loss takes, with the advantages of the batch."""
    rollouts = [
        Rollout(
            id=f"{index}",
            group_id=f"{sequence.group}",
            prompt_ids=np.array(sequence.prompt, dtype=np.int32),
            completion_ids=np.array(sequence.completion, dtype=np.int32),
            sampling_log_probs=np.array(sequence.old_log_probs, dtype=np.float32),
            text="",
            prompt_text="",
            finish_reason="stop",
            policy_version=0,
        )
        for index, sequence in enumerate(sequences)
    ]
    members: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        members.setdefault(rollout.group_id, []).append(index)
    groups = [
        Group(
            id=name,
            rollouts=tuple(rollouts[index] for index in indices),
            scores=tuple(Scores(reward=sequences[index].reward) for index in indices),
        )
        for name, indices in members.items()
    ]
    credit = make_algorithm().credit(groups, np.random.default_rng(0))
    assert isinstance(credit, TokenCredit)
    return credit


def write_batch(path: Path, model: Path, questions: Sequence[_items.Question]) -> int:
    """Write the batch for `read_batch`; returns the tokens of its sequences, prompts counted once for each answer."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rng = np.random.default_rng(0)
    uniform = -math.log(tokenizer.vocab_size)
    sequences = []
    for group, question in enumerate(questions):
        text = tokenizer.apply_chat_template([{"role": "user", "content": question.text}], add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        for answer in question.answers:
            completion = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            old = rng.normal(uniform, OLD_LOG_PROB_SPREAD, len(completion)).astype(np.float32)
            sequences.append(worker.Sequence(group, prompt, completion, float(rng.normal()), 0.0, old.tolist()))
    credit = make_credit(sequences)
    advantages = credit.advantages[credit.layout.offsets[:-1]].tolist()
    records = [{**asdict(sequence), "advantage": value} for sequence, value in zip(sequences, advantages, strict=True)]
    path.write_text(json.dumps(records))
    return sum(len(sequence.prompt) + len(sequence.completion) for sequence in sequences)
