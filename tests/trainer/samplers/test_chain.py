"""Samplers by name, one after the other, and prompts that are neither lost nor repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.prompts import Prompt, PromptSet, PromptSource
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samplers import (
    CheckpointRule,
    Draw,
    Sampler,
    SamplerChain,
    StepContext,
    known_samplers,
    load_sampler,
    sampler_config,
)
from rewardmesh.trainer.samples import Group

NEEDED: dict[str, dict[str, Any]] = {"uncertain": {"by": "log_ratio"}}


def test_every_sampler_is_found_by_its_name() -> None:
    assert len(known_samplers()) >= 15
    for name in known_samplers():
        sampler = load_sampler(name, NEEDED.get(name))
        assert sampler.name == name
        assert all(field.description for field in sampler_config(name).model_fields.values())
        sampler.load_state(sampler.state())


def test_an_unknown_name_or_option_says_so() -> None:
    with pytest.raises(ValueError, match=r"unknown sampler 'dynamik' \(did you mean 'dynamic'\?\), known: .*curriculum"):
        load_sampler("dynamik")
    with pytest.raises(ValidationError, match="round"):
        load_sampler("dynamic", {"round": 3})


class Window(Sampler):
    """Takes every `step`-th candidate."""

    def __init__(self, name: str, factor: int) -> None:
        self.name = name
        self.factor = factor

    def candidates(self, size: int) -> int:
        return size * self.factor

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        assert len(prompts) == size * self.factor
        return list(prompts[:: self.factor])


def test_each_chooses_for_the_next(make_context: Callable[..., StepContext], prompts: list[Prompt]) -> None:
    chain = SamplerChain([Window("a", 3), Window("b", 2)])
    asked = []

    def take(count: int) -> list[Prompt]:
        asked.append(count)
        return prompts[:count]

    chosen = chain.choose(make_context(), 2, take, {})
    assert asked == [12]
    assert [prompt.id for prompt in chosen] == ["p0", "p6"]


def test_a_prompt_chosen_twice_is_refused(make_context: Callable[..., StepContext], prompts: list[Prompt]) -> None:
    with pytest.raises(ValueError, match="twice"):
        SamplerChain([]).choose(make_context(), 2, lambda count: prompts[:count], {"p1": prompts[1]})


class Part(Sampler):
    """Keeps the first rollout of every other group."""

    def __init__(self, name: str) -> None:
        self.name = name

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        return [group.take([0]) if place % 2 == 0 else None for place, group in enumerate(groups)]


def test_what_is_left_out_is_counted_by_sampler(make_context: Callable[..., StepContext], make_group: Callable[..., Group]) -> None:
    chain = SamplerChain([Part("a"), Part("b")])
    groups = [make_group(f"g{i}", [0.0, 1.0, 2.0]) for i in range(4)]
    kept = chain.keep(make_context(), groups)
    assert [(group.id, len(group.rollouts)) for group in kept] == [("g0", 1)]
    expected = {"sampler/a/groups_dropped": 2.0, "sampler/a/rollouts_dropped": 4.0, "sampler/b/groups_dropped": 1.0}
    assert chain.metrics() == expected
    assert chain.metrics() == {}


def test_a_prompt_without_completions_is_refused(make_context: Callable[..., StepContext], prompts: list[Prompt]) -> None:
    class Nothing(Sampler):
        name = "nothing"

        def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
            return [replace(draw, n=0) for draw in draws]

    with pytest.raises(ValueError, match="p0 without completions"):
        SamplerChain([Nothing()]).draw(make_context(), prompts[0], 2)


def test_state_of_other_samplers_is_refused() -> None:
    with pytest.raises(ValueError, match="curriculum"):
        SamplerChain([load_sampler("replay")]).load_state({"curriculum": {}})


@given(every=st.integers(0, 5), lag=st.integers(0, 7), step=st.integers(1, 40))
def test_a_checkpoint_rule_draws_from_what_it_holds(every: int, lag: int, step: int) -> None:
    rule = CheckpointRule(every, lag)
    at = rule.at(step)
    assert 0 <= at < step
    assert rule.holds(at)
    assert at == 0 or (at % every == 0 and at <= step - 1 - lag < at + every)
    assert at <= rule.at(step + 1)


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [{"id": f"p{i}", "prompt": f"q{i}", "worked": f"a{i}"} for i in range(7)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize("sizes", [[1] * 21, [3] * 7, [7, 7, 7], [2, 5, 4, 3, 7]])
def test_every_epoch_has_every_prompt_once(prompt_file: Path, sizes: list[int]) -> None:
    prompts = PromptSet(PromptSource(path=prompt_file), seed=3)
    position, walked = 0, []
    for size in sizes:
        taken, position = prompts.take(position, size)
        assert len({prompt.id for prompt in taken}) == size
        walked += [prompt.id for prompt in taken]
    if max(sizes) in {1, 7}:
        assert all(sorted(walked[start : start + 7]) == [f"p{i}" for i in range(7)] for start in range(0, len(walked), 7))
    assert set(walked) == {f"p{i}" for i in range(7)}


def test_taking_passes_over_what_the_step_has(prompt_file: Path) -> None:
    prompts = PromptSet(PromptSource(path=prompt_file), seed=3)
    first, position = prompts.take(0, 3)
    more, position = prompts.take(position, 10, without={prompt.id for prompt in first})
    assert len(more) == 4
    assert {prompt.id for prompt in first} | {prompt.id for prompt in more} == set(prompts.by_id)
    none, after = prompts.take(position, 2, without=prompts.by_id)
    assert (none, after) == ([], position)


def test_limit_and_demonstrations(prompt_file: Path) -> None:
    prompts = PromptSet(PromptSource(path=prompt_file, limit=2, demonstration_field="worked"), seed=0)
    assert list(prompts.by_id) == ["p0", "p1"]
    assert prompts.by_id["p1"].demonstrations == ("a1",)


def test_repeated_prompt_ids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}')
    with pytest.raises(ConfigError, match="met twice: a"):
        PromptSet(PromptSource(path=path), seed=0)


@pytest.mark.parametrize(
    ("samplers", "message"),
    [
        ([{"name": "dinamic"}], "unknown sampler 'dinamic'.*did you mean 'dynamic'"),
        ([{"rounds": 2}], r"samplers\[0\].name: is missing"),
        ([{"name": "dynamic"}, {"name": "dynamic"}], r"samplers\[1\].name: dynamic is there already"),
        ([{"name": "greedy"}, {"name": "dynamic", "rounds": 0}], r"samplers\[1\]: rounds: .*greater than or equal to 1"),
        ([{"name": "mixture"}], "services.logprob: the sampler mixture needs it"),
        ([{"name": "rejection", "keep": 9}], "sampling.completions: the sampler rejection needs at least 9"),
    ],
)
def test_a_recipe_names_the_mistake(tmp_path: Path, samplers: list[dict[str, Any]], message: str) -> None:
    recipe = {
        "run_dir": tmp_path,
        "policy": "p",
        "prompts": {"path": "x"},
        "services": {"gateway": "a", "generation": "b"},
        "algorithm": {"name": "ppo", "kl_coef": 0.0},
        "samplers": samplers,
    }
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(recipe)
