"""The direction sampler: every prompt says a direction of its own, the same on a resumed run, and keeps it in its tags."""

import numpy as np
import pytest
from pydantic import ValidationError

from rewardmesh.trainer.credit.directions import direction_of
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.samplers import StepContext, load_sampler


def _context(number: int) -> StepContext:
    return StepContext(number=number, seed=3, size=4, prompts={}, codec=None)  # type: ignore[arg-type]


def _prompts() -> list[Prompt]:
    return [Prompt(f"p{index}", (("system", "s"), ("user", f"question {index}")), (), {"topic": "sums"}) for index in range(3)]


def test_each_prompt_and_step_has_a_direction_of_its_own() -> None:
    sampler = load_sampler("direction", {"objectives": ["right", "brief"], "both_signs": ["brief"]})
    directed = sampler.choose(_context(1), _prompts(), 2, {})
    assert [prompt.id for prompt in directed] == ["p0", "p1"]
    found = [direction_of(prompt.tags) for prompt in directed]
    assert found[0] != found[1]
    assert all(np.hypot(one["right"], one["brief"]) == pytest.approx(1) for one in found)
    assert found == [direction_of(prompt.tags) for prompt in sampler.choose(_context(1), _prompts(), 2, {})]
    assert found != [direction_of(prompt.tags) for prompt in sampler.choose(_context(2), _prompts(), 2, {})]


def test_the_prompt_says_it_and_keeps_the_rest() -> None:
    sampler = load_sampler("direction", {"objectives": ["right"], "template": "want {direction}: {prompt}"})
    (prompt,) = sampler.choose(_context(1), _prompts()[:1], 1, {})
    assert prompt.messages == (("system", "s"), ("user", "want right=1.00: question 0"))
    assert prompt.tags == {"topic": "sums", "direction:right": "1.0"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"objectives": []}, "objectives"),
        ({"objectives": ["a", "a"]}, "distinct"),
        ({"objectives": ["a"], "both_signs": ["b"]}, "b is no objective"),
        ({"template": "{prompt}"}, r"must hold \{direction\}"),
    ],
)
def test_bad_directions_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load_sampler("direction", config)
