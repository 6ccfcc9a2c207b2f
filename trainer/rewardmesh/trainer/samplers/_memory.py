"""Completions kept over steps, by prompt, in a form that a checkpoint can hold to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rewardmesh.trainer.samplers._base import Given
from rewardmesh.trainer.samples import Rollout, Source


class Memory:
    """Rollouts by prompt id, prompts in the order in which they were first remembered.

    Args:
        per_prompt: most rollouts kept of one prompt; the newest stay.
    """

    def __init__(self, per_prompt: int) -> None:
        self._per_prompt = per_prompt
        self._kept: dict[str, list[Given]] = {}

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._kept

    @property
    def prompt_ids(self) -> list[str]:
        """Prompts of which there is at least one rollout."""
        return list(self._kept)

    @property
    def rollouts(self) -> int:
        """How many there are."""
        return sum(map(len, self._kept.values()))

    def of(self, prompt_id: str) -> list[Given]:
        """The rollouts of a prompt, oldest first."""
        return list(self._kept.get(prompt_id, ()))

    def add(self, prompt_id: str, rollouts: Sequence[Rollout]) -> None:
        """Remember rollouts; one with the same tokens as one that is there already is passed over."""
        kept = self._kept.setdefault(prompt_id, [])
        for rollout in rollouts:
            ids = tuple(rollout.completion_ids.tolist())
            if all(one.completion_ids != ids for one in kept):
                kept.append(as_replay(rollout))
        del kept[: -self._per_prompt]
        if not kept:
            del self._kept[prompt_id]

    def replace(self, prompt_id: str, rollouts: Sequence[Rollout]) -> None:
        """Remember these rollouts of the prompt and no others."""
        self._kept.pop(prompt_id, None)
        self.add(prompt_id, rollouts)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {id_: [_packed(one) for one in kept] for id_, kept in self._kept.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`."""
        self._kept = {id_: [_unpacked(one) for one in kept] for id_, kept in state.items()}


def as_replay(rollout: Rollout) -> Given:
    """A rollout as it is given again, with the log-probs of its own sampling."""
    source: Source = "demonstration" if rollout.source == "demonstration" else "replay"
    return Given(
        completion_ids=tuple(rollout.completion_ids.tolist()),
        source=source,
        sampling_log_probs=None if source == "demonstration" else rollout.sampling_log_probs,
        finish_reason=rollout.finish_reason,
        policy_version=rollout.policy_version,
    )


def _packed(given: Given) -> dict[str, Any]:
    known = given.sampling_log_probs
    return {
        "ids": torch.tensor(given.completion_ids, dtype=torch.int32),
        "log_probs": None if known is None else torch.from_numpy(known.copy()),
        "source": given.source,
        "finish_reason": given.finish_reason,
        "policy_version": given.policy_version,
    }


def _unpacked(packed: Mapping[str, Any]) -> Given:
    known = packed["log_probs"]
    return Given(
        completion_ids=tuple(packed["ids"].tolist()),
        source=packed["source"],
        sampling_log_probs=None if known is None else known.numpy().astype(np.float32),
        finish_reason=packed["finish_reason"],
        policy_version=packed["policy_version"],
    )
