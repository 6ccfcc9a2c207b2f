"""The packed update is the plain one: sharing a prompt, cutting a batch and fusing a loss change no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rewardmesh.engine import linear
from rewardmesh.trainer.algorithms import Algorithm, load_algorithm
from rewardmesh.trainer.credit import Credit, TokenCredit, micro_batches
from rewardmesh.trainer.policy import Policy
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import Group, Rollout, Scores, all_rollouts

MakeModel = Callable[..., Path]
ARCHITECTURES = ("qwen2", "llama", "gemma", "gpt_neox", "gemma2")
CHANGES: dict[str, dict[str, Any]] = {"gemma": {"head_dim": 8}, "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8}}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "online_dpo": {},
    "ipo": {},
    "simpo": {},
    "kto": {},
    "ppo": {"epochs": 1},
    "grpo": {},
    "dr_grpo": {},
    "gspo": {},
    "rloo": {},
    "reinforce_plus_plus": {},
    "raft": {},
}
GRADIENT = 1e-4
"""Norm of a gradient's difference over the gradient's, fp32."""


def make_policy(path: Path, algorithm: Algorithm, **optimiser: Any) -> Policy:
    document = {
        "run_dir": path,
        "policy": str(path),
        "prompts": {"path": path},
        "services": {"gateway": "127.0.0.1:1", "generation": "127.0.0.1:1", "logprob": "127.0.0.1:1"},
        "algorithm": {"name": "online_dpo"},
        "sampling": {"temperature": 0.8, "completions": 4},
        "optimiser": {"learning_rate": 1e-3, **optimiser},
    }
    return Policy(Recipe.model_validate(document), algorithm, str(path))


def make_groups(prompts: int = 3, completions: int = 4) -> list[Group]:
    """Prompts and completions of different lengths; one sample of each prompt but the first has no score."""
    rng = np.random.default_rng(0)
    groups = []
    for number in range(prompts):
        prompt = rng.integers(2, 300, 9 + 4 * number, dtype=np.int32)
        rollouts, scores, references = [], [], []
        for index in range(completions):
            length = int(rng.integers(2, 14))
            rollouts.append(
                Rollout(
                    id=f"{number}/{index}",
                    group_id=str(number),
                    prompt_ids=prompt,
                    completion_ids=rng.integers(2, 300, length, dtype=np.int32),
                    sampling_log_probs=rng.normal(-5, 0.2, length).astype(np.float32),
                    text="",
                    prompt_text="",
                    finish_reason="stop",
                    policy_version=0,
                )
            )
            absent = number > 0 and index == 1
            scores.append(Scores(None, "DEADLINE") if absent else Scores(float(rng.normal())))
            references.append(rng.normal(-5, 0.2, length).astype(np.float32))
        groups.append(Group(str(number), tuple(rollouts), tuple(scores), reference_log_probs=tuple(references)))
    return groups


def credit_of(algorithm: Algorithm, groups: Sequence[Group]) -> Credit:
    values = torch.zeros(sum(rollout.length for rollout in all_rollouts(groups)))
    return algorithm.credit(groups, np.random.default_rng(0), values)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert float(whole) > 1e-4, "without a gradient the comparison means nothing"
    for name, gradient in expected.items():
        # A gradient that is zero but for rounding (a key's bias) is compared with the size of all of them.
        scale = max(float(gradient.norm()), 1e-3 * float(whole))
        assert float((found[name] - gradient).norm()) / scale < GRADIENT, name


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_preferred", lambda: request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sharing_a_prompt_changes_no_gradient(make_model: MakeModel, architecture: str) -> None:
    """Against transformers' own forward, one sequence at a time, and log_softmax: no code of ours between."""
    algorithm = load_algorithm("online_dpo", {})
    path = make_model("causal", architecture, **CHANGES.get(architecture, {}))
    credit = credit_of(algorithm, make_groups())
    packed = make_policy(path, algorithm)
    assert packed.why_plain == ""
    packed.backward(algorithm, credit)
    plain = make_policy(path, algorithm)
    plain.model.set_attn_implementation("eager")
    parts = []
    for rollout in credit.rollouts:
        ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids])).long()
        logits = plain.model(input_ids=ids[None], use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1] / 0.8
        parts.append(logits.log_softmax(dim=1).gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0])
    log_probs = torch.cat(parts)
    with torch.no_grad():
        torch.testing.assert_close(packed.log_probs(credit.rollouts), log_probs, atol=1e-4, rtol=0)
    algorithm.loss(credit, log_probs).loss.backward()  # type: ignore[no-untyped-call]
    assert_equal_gradients(gradients(packed.model), gradients(plain.model))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_many_parts_of_a_step_equal_one(make_model: MakeModel, name: str) -> None:
    """The update of a batch in one micro-batch, and in as many as it can be cut into."""
    path = make_model("causal")
    found = []
    for tokens in (10**6, 1):
        algorithm = load_algorithm(name, ALGORITHMS[name])
        policy = make_policy(path, algorithm, micro_batch_tokens=tokens, max_grad_norm=1e6)
        credit = credit_of(algorithm, make_groups())
        assert (len(list(micro_batches(credit, tokens))) > 2) == (tokens == 1)
        metrics = policy.update(algorithm, credit, np.random.default_rng(0))
        whole = gradients(policy.model)
        if policy.critic:
            whole |= {f"critic.{key}": value for key, value in gradients(policy.critic).items()}
        found.append((metrics, whole))
    (metrics, whole), (cut_metrics, cut) = found
    assert cut_metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-5, abs=1e-6)
    assert cut_metrics["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-4)
    assert_equal_gradients(cut, whole)


def test_log_probs_are_those_of_the_sampling_temperature(make_model: MakeModel) -> None:
    algorithm = load_algorithm("online_dpo", {})
    policy = make_policy(make_model("causal"), algorithm)
    [rollout] = all_rollouts(make_groups(1, 1))
    ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids])).long()
    policy.model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = policy.model(input_ids=ids[None]).logits[0, len(rollout.prompt_ids) - 1 : -1]
        policy.model.set_attn_implementation("rewardmesh_packed")
        found = policy.log_probs([rollout])
    at_temperature = (logits / 0.8).log_softmax(dim=1).gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]
    torch.testing.assert_close(found, at_temperature, atol=1e-4, rtol=0)
    assert float((found - logits.log_softmax(dim=1).gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]).abs().max()) > 0.01


def test_dropout_is_off_in_the_update(make_model: MakeModel) -> None:
    algorithm = load_algorithm("online_dpo", {})
    credit = credit_of(algorithm, make_groups())
    path = make_model("causal", attention_dropout=0.5)
    norms = set()
    for _ in range(2):
        policy = make_policy(path, algorithm)
        assert policy.model.config.attention_dropout == 0.5
        norms.add(policy.update(algorithm, credit, np.random.default_rng(0))["grad_norm"])
    assert len(norms) == 1


def test_a_non_finite_gradient_takes_no_step(make_model: MakeModel) -> None:
    algorithm = load_algorithm("grpo", {})
    policy = make_policy(make_model("causal"), algorithm)
    credit = credit_of(algorithm, make_groups())
    assert isinstance(credit, TokenCredit)
    assert policy.update(algorithm, credit, np.random.default_rng(0))["skipped_non_finite"] == 0
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    credit.advantages[0] = torch.nan
    assert policy.update(algorithm, credit, np.random.default_rng(0))["skipped_non_finite"] == 1
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
