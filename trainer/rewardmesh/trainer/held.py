"""Earlier policies that samplers draw from, on disk: they must outlive the steps, the services, and a killed run.

A policy is kept when a sampler may draw from it later. Those that no sampler will draw from again are only removed once a checkpoint is
written, because a resumed run walks the steps after it again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rewardmesh.trainer.samplers import CheckpointRule

_NAME = re.compile(r"step-(\d{6,})")


class HeldPolicies:
    """Model directories by the step after which each was the policy; 0 is the initial one.

    Args:
        folder: of the run; made when there is something to keep.
        rules: of the samplers.
    """

    def __init__(self, folder: Path, rules: Sequence[CheckpointRule]) -> None:
        self._folder = folder
        self._rules = list(rules)

    def needed(self, step: int) -> dict[int, Path]:
        """The directories that `step` draws from, whether they are there or not."""
        return {at: self._path(at) for at in sorted({rule.at(step) for rule in self._rules})}

    def remember(self, step: int, weights: Path) -> None:
        """Keep a copy of the policy after `step` if a later step may draw from it. Raises OSError."""
        path = self._path(step)
        if path.exists() or not any(rule.holds(step) for rule in self._rules):
            return
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(weights, partial)
        partial.rename(path)

    def forget_before(self, step: int) -> None:
        """Remove what neither `step` nor a later one draws from."""
        oldest = min(self.needed(step), default=0)
        self._remove(lambda at: at < oldest)

    def forget_after(self, step: int) -> None:
        """Remove the policies after `step`, which a resumed run makes again."""
        self._remove(lambda at: at > step)

    def _remove(self, unwanted: Callable[[int], bool]) -> None:
        entries = list(self._folder.iterdir()) if self._folder.is_dir() else []
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and unwanted(int(match[1])):
                shutil.rmtree(entry)

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"
