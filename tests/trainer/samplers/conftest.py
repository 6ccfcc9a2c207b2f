"""A step without a mesh: prompts, a codec that takes every character for a token, and the context of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.samplers import StepContext
from rewardmesh.trainer.samples import FloatArray, Rollout, Scores

MakeContext = Callable[..., StepContext]


class CharacterCodec:
    """Token ids are code points; 0 ends an answer."""

    end_id = 0
    end_ids = (0,)
    context = 1000

    def prompt(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        return [ord(letter) for _, text in turns for letter in text]

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def answer(self, text: str) -> list[int]:
        return [*self.encode(text), 0]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(id_) for id_ in ids if id_)


class SilentMesh:
    """A mesh that must not be asked."""

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        raise AssertionError("was asked for reference log-probs")

    async def scores(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str) -> Sequence[Scores]:
        raise AssertionError("was asked for scores")

    async def probe(self, prompts: Sequence[Prompt], n: int) -> Mapping[str, Sequence[Scores]]:
        raise AssertionError("was asked to probe")


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    return [Prompt(f"p{i}", (("user", f"question {i}"),), (str(i),), demonstrations=(f"worked answer {i}",)) for i in range(12)]


@pytest.fixture(scope="session")
def make_context(prompts: list[Prompt]) -> MakeContext:
    """make_context(step=1, seed=0, size=4)."""

    def make(step: int = 1, seed: int = 0, size: int = 4) -> StepContext:
        return StepContext(step, seed, size, {prompt.id: prompt for prompt in prompts}, CharacterCodec())  # type: ignore[arg-type]

    return make


@pytest.fixture
def silent_mesh() -> SilentMesh:
    return SilentMesh()
