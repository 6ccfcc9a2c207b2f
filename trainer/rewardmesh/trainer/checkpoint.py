"""Checkpoints: a model directory anyone can load, beside the state that makes a resumed run equal to an uninterrupted one.

A checkpoint is written beside its final place and renamed, so that a killed process leaves a whole one or none.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewardmesh.engine.loading import MANIFEST, LoadError, check_manifest, write_version

_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(Exception):
    """A checkpoint that cannot be written or used; the message names the path."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        step: steps finished when it was taken.
        path: its folder; `path / "policy"` is a Hugging Face model directory.
    """

    step: int
    path: Path

    @property
    def policy(self) -> Path:
        """The policy's model directory."""
        return self.path / "policy"

    def state(self) -> dict[str, Any]:
        """Optimiser, schedule, critic, algorithm and counters.

        Raises:
            CheckpointError: unreadable or torn.
        """
        try:
            check_manifest(self.policy)
            state: dict[str, Any] = torch.load(self.path / "state.pt", weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, ValueError, LoadError) as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error
        return state


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None."""
        found = self._all()
        return found[-1] if found else None

    def save(self, step: int, model: Any, tokenizer: Any, state: dict[str, Any]) -> Checkpoint:
        """Write a checkpoint and forget the oldest ones.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints stay.
        """
        final = self._folder / f"step-{step:06d}"
        partial = self._folder / f".step-{step:06d}.{os.getpid()}.partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            write_version(partial / "policy", model, tokenizer)
            with (partial / "state.pt").open("wb") as stream:
                torch.save(state, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{final}: cannot be written: {error}; free space and resume") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self._all()[: -self._keep]:
            shutil.rmtree(old.path)
        return Checkpoint(step, final)

    def _all(self) -> list[Checkpoint]:
        if not self._folder.is_dir():
            return []
        found = [
            Checkpoint(int(match[1]), entry)
            for entry in self._folder.iterdir()
            if (match := _NAME.fullmatch(entry.name)) and (entry / "policy" / MANIFEST).exists()
        ]
        return sorted(found, key=lambda checkpoint: checkpoint.step)
