"""Token rewards on real services: from the reward model's head by way of the gateway, and from the log-ratios of a guide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from rewardmesh import gateway, logprob, reward
from rewardmesh.trainer.credit.dense import shared_out_rewards, with_implicit_rewards
from rewardmesh.trainer.mesh import Mesh
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import Group, Rollout, Scores

PROGRAM = """\
name: tokens
signals: {working: {reward: tiny, want: [tokens]}}
reward: {sum: [{of: working, shape: {sigmoid: {}}}]}
"""


def _rollout(tokenizer: PreTrainedTokenizerFast, id_: str, text: str) -> Rollout:
    """Cut into other tokens than the reward model would: two code points each, then the end of the sequence."""
    ids = [id_ for start in range(0, len(text), 2) for id_ in tokenizer(text[start : start + 2], add_special_tokens=False)["input_ids"]]
    completion = np.array([*ids, tokenizer.eos_token_id], np.int32)
    log_probs = np.full(completion.size, -1.0, np.float32)
    return Rollout(id_, "g", np.array([1, 2], np.int32), completion, log_probs, text, "q", "stop", 1)


async def test_from_the_head_to_the_rollout(reward_model: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "program.yaml").write_text(PROGRAM)
    scorer = await reward.create_server(reward.Config(model=str(reward_model), name="tiny", batch_invariant=True, drain_seconds=2))
    await scorer.start()
    front = await gateway.create_server(
        gateway.Config(programs=[str(tmp_path / "program.yaml")], backends={"reward": scorer.address}, drain_seconds=2)
    )
    await front.start()
    recipe = Recipe.parse(
        {
            "run_dir": tmp_path,
            "policy": "p",
            "prompts": {"path": tmp_path / "prompts.jsonl"},
            "services": {"gateway": front.address, "generation": "127.0.0.1:1", "logprob": "127.0.0.1:1"},
            "algorithm": {"name": "abc_ppo", "token_map": "rewards", "share": 0.5},
        }
    )
    rollouts = [_rollout(tokenizer, "a", "12 + 7 = 19"), _rollout(tokenizer, "b", "The answer is 21.")]
    mesh = Mesh(recipe)
    mesh.decode = lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)
    try:
        found = await mesh.evaluate(Prompt("p", (("user", "How many apples?"),), ()), rollouts)
        mesh.decode = None
        without = await mesh.evaluate(Prompt("p", (("user", "How many apples?"),), ()), rollouts)
    finally:
        await mesh.close()
        await front.stop()
        await scorer.stop()
    for rollout, scores in zip(rollouts, found.scores, strict=True):
        assert scores.token_rewards is not None
        assert scores.token_rewards.size == rollout.length
        assert np.unique(scores.token_rewards).size > 3
        assert scores.token_rewards.sum() == pytest.approx(scores.components["working"], abs=1e-5)
    assert all(scores.token_rewards is None for scores in without.scores)
    group = Group("g", tuple(rollouts), found.scores)
    moved = shared_out_rewards([group], 0.5, "rewards", 1.0)
    for rollout, scores in zip(rollouts, found.scores, strict=True):
        assert scores.token_rewards is not None
        np.testing.assert_allclose(moved[rollout.id][:-1], 0.5 * scores.token_rewards[:-1], atol=1e-5)
        assert moved[rollout.id].sum() == pytest.approx(0.0, abs=1e-5)


async def test_reference_and_guide_answer_one_call(
    causal_model: Path, make_model: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    other = make_model("causal", seed=7)
    frozen = await logprob.create_server(
        logprob.Config(model=str(causal_model), name="reference", policies={"guide": str(other)}, drain_seconds=2)
    )
    await frozen.start()
    services = {"gateway": "127.0.0.1:1", "generation": "127.0.0.1:1", "logprob": frozen.address}
    recipe = Recipe.parse(
        {
            "run_dir": tmp_path,
            "policy": "p",
            "prompts": {"path": tmp_path / "prompts.jsonl"},
            "services": services,
            "algorithm": {"name": "rto"},
            "guide_policy": "guide",
        }
    )
    rollouts = [_rollout(tokenizer, "a", "12 + 7 = 19"), _rollout(tokenizer, "b", "The answer is 21.")]
    mesh = Mesh(recipe)
    try:
        both = await mesh.log_probs(rollouts, ["reference", "guide"])
        assert mesh.requests["logprob"] == 1
        reference, guide = await mesh.reference(rollouts), await mesh.log_probs(rollouts, ["guide"])
    finally:
        await mesh.close()
        await frozen.stop()
    for (first, second), alone, (tuned,) in zip(both, reference, guide, strict=True):
        assert first is not None
        assert second is not None
        assert alone is not None
        assert tuned is not None
        np.testing.assert_allclose(first, alone, atol=1e-5)
        np.testing.assert_allclose(second, tuned, atol=1e-5)
        assert np.abs(first - second).max() > 0.1
    group = Group("g", tuple(rollouts), (Scores(1.0),) * 2, reference_log_probs=tuple(reference))
    paid = with_implicit_rewards(group, [second for _, second in both], 1.0)
    for scores, (first, second) in zip(paid.scores, both, strict=True):
        assert scores.token_rewards is not None
        assert first is not None
        assert second is not None
        np.testing.assert_allclose(scores.token_rewards, second - first, atol=1e-4)
