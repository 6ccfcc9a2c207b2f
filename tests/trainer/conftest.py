"""Small rollouts and groups for the trainer's tests."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from rewardmesh.trainer.samples import Group, Rollout, Scores

Floats = npt.NDArray[np.float64]


def _rollout(
    id_: str, group_id: str, log_probs: Sequence[float] | Floats, *, finish_reason: str = "stop", prompt_tokens: int = 3
) -> Rollout:
    return Rollout(
        id=id_,
        group_id=group_id,
        prompt_ids=np.arange(prompt_tokens, dtype=np.int32),
        completion_ids=np.arange(len(log_probs), dtype=np.int32),
        sampling_log_probs=np.asarray(log_probs, dtype=np.float32),
        text="",
        prompt_text="",
        finish_reason=finish_reason,
        policy_version=0,
    )


def _group(
    id_: str,
    rewards: Sequence[float | None],
    *,
    lengths: Sequence[int] | None = None,
    preferences: Floats | None = None,
    finish_reasons: Sequence[str] | None = None,
    with_reference: bool = True,
    seed: int = 0,
) -> Group:
    """Random log-probs; a reward of None is an INFRASTRUCTURE absence."""
    rng = np.random.default_rng([seed, *id_.encode()])
    lengths = lengths if lengths is not None else [2 + index % 3 for index in range(len(rewards))]
    reasons = finish_reasons if finish_reasons is not None else ["stop"] * len(rewards)
    rollouts = tuple(
        _rollout(f"{id_}/{index}", id_, -rng.exponential(size=length), finish_reason=reason)
        for index, (length, reason) in enumerate(zip(lengths, reasons, strict=True))
    )
    return Group(
        id=id_,
        rollouts=rollouts,
        scores=tuple(Scores(reward=reward, absence="INFRASTRUCTURE" if reward is None else None) for reward in rewards),
        preferences=preferences,
        reference_log_probs=tuple((-rng.exponential(size=r.length)).astype(np.float32) if with_reference else None for r in rollouts),
    )


@pytest.fixture(scope="session")
def make_rollout() -> Callable[..., Rollout]:
    """make_rollout(id, group_id, log_probs, *, finish_reason="stop", prompt_tokens=3)."""
    return _rollout


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    """make_group(id, rewards, *, lengths=None, preferences=None, finish_reasons=None, with_reference=True, seed=0)."""
    return _group
