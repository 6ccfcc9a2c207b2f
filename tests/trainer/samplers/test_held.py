"""Earlier policies on disk: there when a step draws from them, also after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardmesh.trainer.held import HeldPolicies
from rewardmesh.trainer.samplers import CheckpointRule


def written(folder: Path, step: int) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "model").write_text(str(step))
    return folder


def test_what_no_step_draws_from_is_not_kept(tmp_path: Path) -> None:
    held = HeldPolicies(tmp_path / "held", [CheckpointRule(2), CheckpointRule(0)])
    for step in range(6):
        held.remember(step, written(tmp_path / "weights", step))
    assert sorted(path.name for path in (tmp_path / "held").iterdir()) == ["step-000000", "step-000002", "step-000004"]
    assert list(held.needed(6)) == [0, 4]
    held.forget_after(3)
    assert sorted(path.name for path in (tmp_path / "held").iterdir()) == ["step-000000", "step-000002"]


def test_without_rules_nothing_is_written(tmp_path: Path) -> None:
    held = HeldPolicies(tmp_path / "held", [])
    held.remember(0, written(tmp_path / "weights", 0))
    held.forget_before(3)
    assert held.needed(1) == {}
    assert not (tmp_path / "held").exists()


@settings(deadline=None, max_examples=25)
@given(every=st.integers(0, 4), lag=st.integers(0, 4), checkpoint_every=st.integers(1, 4), kills=st.lists(st.integers(1, 12), max_size=3))
def test_every_policy_is_there_when_it_is_drawn_from(
    tmp_path_factory: pytest.TempPathFactory, every: int, lag: int, checkpoint_every: int, kills: list[int]
) -> None:
    """A run of 12 steps that is killed and goes on from its last checkpoint draws from the same policies as one that is not."""
    folder = tmp_path_factory.mktemp("run")
    kills, step, checkpoint = [*kills], 0, 0
    held = HeldPolicies(folder / "held", [CheckpointRule(every, lag)])
    while step < 12:
        held.remember(step, written(folder / "weights", step))
        for at, path in held.needed(step + 1).items():
            assert (path / "model").read_text() == str(at)
        step += 1
        if step in kills:
            kills.remove(step)
            step = checkpoint
            held = HeldPolicies(folder / "held", [CheckpointRule(every, lag)])
            held.forget_after(step)
        elif step % checkpoint_every == 0:
            held.remember(step, written(folder / "weights", step))
            checkpoint = step
            held.forget_before(step + 1)
