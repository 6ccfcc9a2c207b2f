"""The oracles' answers on one set of random inputs: one process per oracle environment for all of its cases (`make test-oracles`).

Without the environments these tests are skipped; with REWARDMESH_REQUIRE_ORACLES set, and so in CI, they fail.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from .drivers.harness import Arrays, Inputs

ROOT = Path(__file__).parent.parent.parent
SEQUENCES, LONGEST = 12, 9
TOLERANCE = 1e-6


def random_inputs() -> Arrays:
    """What both sides compute with; see `Inputs`. Values are exact in float32, which is what rollouts carry."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, LONGEST + 1, SEQUENCES)
    lengths[0] = LONGEST
    mask = (np.arange(LONGEST) < lengths[:, None]).astype(float)

    def exact(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return values.astype(np.float32).astype(np.float64)

    log_probs = exact(-rng.exponential(size=mask.shape) * mask)
    rewards = exact(rng.normal(size=SEQUENCES))
    return {
        "mask": mask,
        "log_probs": log_probs,
        "old": exact((log_probs + 0.3 * rng.normal(size=mask.shape)) * mask),
        "reference": exact((log_probs + 0.4 * rng.normal(size=mask.shape)) * mask),
        "advantages": exact(rng.normal(size=mask.shape) * mask),
        "win_probability": rng.uniform(size=SEQUENCES),
        "first_wins": rng.integers(0, 2, SEQUENCES // 2).astype(float),
        "rewards": rewards,
        "rewards_absent": np.where(np.arange(SEQUENCES) % 4 == 1, np.nan, rewards),
    }


class Oracle:
    """What one environment's driver answered."""

    def __init__(self, answers: Arrays, inputs: Arrays) -> None:
        self._answers = answers
        self._inputs = inputs

    def inputs(self) -> Inputs:
        """The inputs, with a fresh leaf."""
        return Inputs(self._inputs)

    def value(self, name: str) -> Tensor:
        """What the oracle's case returned."""
        return torch.from_numpy(self._answers[f"{name}/loss"])

    def gradient(self, name: str) -> Tensor:
        """float64[B, T]: of the case's mean to the log-probabilities."""
        return torch.from_numpy(self._answers[f"{name}/gradient"])

    def agrees(self, name: str, ours: Callable[[Inputs], Tensor]) -> None:
        """Asserts that our loss and its gradient are the oracle's; where it gives only a mean, that of our pairs or sequences."""
        inputs, theirs = self.inputs(), self.value(name)
        loss = ours(inputs)
        (gradient,) = torch.autograd.grad(loss.mean(), inputs.log_probs)
        torch.testing.assert_close(
            loss.detach() if loss.shape == theirs.shape else loss.detach().mean(), theirs, rtol=TOLERANCE, atol=TOLERANCE
        )
        torch.testing.assert_close(gradient, self.gradient(name), rtol=TOLERANCE, atol=TOLERANCE)


def _ask(version: str, folder: Path) -> Oracle:
    python = ROOT / f".venv-trl-{version}" / "bin" / "python"
    if not python.exists():
        missing = f"{python.parent.parent} is not there: run `make test-oracles`"
        if os.environ.get("REWARDMESH_REQUIRE_ORACLES"):
            pytest.fail(missing)
        pytest.skip(missing)
    inputs = random_inputs()
    given, answered = folder / "inputs.npz", folder / "answers.npz"
    np.savez(given, **inputs)  # type: ignore[arg-type]
    module = f"oracles.drivers.trl_{version.replace('.', '_')}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "tests")}
    command = [str(python), "-m", module, str(given), str(answered)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, f"{module}: {run.stderr[-3000:]}"
    with np.load(answered) as archive:
        return Oracle(dict(archive), inputs)


@pytest.fixture(scope="session")
def trl_0_28(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return _ask("0.28", tmp_path_factory.mktemp("trl-0.28"))


@pytest.fixture(scope="session")
def trl_1_16(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return _ask("1.16", tmp_path_factory.mktemp("trl-1.16"))
