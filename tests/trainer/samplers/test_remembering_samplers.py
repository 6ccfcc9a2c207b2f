"""Samplers with a memory: what they remember, what it changes, and that it outlives the process to the bit."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.samplers import Draw, Sampler, StepContext, load_sampler
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, Scores

MakeContext = Callable[..., StepContext]
MakeGroup = Callable[..., Group]


def through_a_checkpoint(sampler: Sampler) -> Sampler:
    """Another sampler of the same options with the state that a checkpoint would keep."""
    file = io.BytesIO()
    torch.save(sampler.state(), file)
    file.seek(0)
    other = load_sampler(sampler.name, sampler.config.model_dump())  # type: ignore[attr-defined]
    other.load_state(torch.load(file, weights_only=True))
    return other


@pytest.fixture
def answered(make_group: MakeGroup) -> Callable[..., Group]:
    """answered(prompt id, rewards, step=1): a group whose rollouts differ from those of other steps."""

    def make(prompt_id: str, rewards: Sequence[float | None], step: int = 1, source: Any = "policy") -> Group:
        group = make_group(f"step-{step}/{prompt_id}", rewards)
        rollouts = tuple(
            replace(rollout, completion_ids=rollout.completion_ids + 10 * step + index, source=source)
            for index, rollout in enumerate(group.rollouts)
        )
        return replace(group, rollouts=rollouts, prompt_id=prompt_id)

    return make


def test_replay_gives_successes_again(make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]) -> None:
    replay = load_sampler("replay", {"n": 2, "per_prompt": 3})
    group = answered("p1", [1.0, 0.0, 1.0, None])
    replay.observe(make_context(), [group, answered("p2", [0.0, 0.4])])
    for sampler in (replay, through_a_checkpoint(replay)):
        given = sampler.recall(make_context(2), prompts[1])
        assert [one.completion_ids for one in given] == [tuple(group.rollouts[i].completion_ids.tolist()) for i in (0, 2)]
        assert all(one.source == "replay" for one in given)
        for one, i in zip(given, (0, 2), strict=True):
            np.testing.assert_array_equal(np.asarray(one.sampling_log_probs), group.rollouts[i].sampling_log_probs)
        assert sampler.recall(make_context(2), prompts[2]) == []
        assert sampler.metrics() == {"remembered": 2.0}


def test_replay_remembers_the_newest_and_each_answer_once(
    make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]
) -> None:
    replay = load_sampler("replay", {"n": 9, "per_prompt": 3})
    for step in (1, 1, 2):
        replay.observe(make_context(step), [answered("p1", [1.0, 1.0], step)])
    new = [tuple(rollout.completion_ids.tolist()) for step in (1, 2) for rollout in answered("p1", [1.0, 1.0], step).rollouts]
    assert [one.completion_ids for one in replay.recall(make_context(3), prompts[1])] == new[1:]


def test_replay_learns_only_from_whole_answers_of_the_policy(
    make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]
) -> None:
    replay = load_sampler("replay")
    begun = answered("p1", [1.0])
    begun = replace(begun, rollouts=(replace(begun.rollouts[0], prefix_tokens=1),))
    replay.observe(make_context(), [begun, answered("p1", [1.0], source="replay"), answered("p1", [1.0], source="demonstration")])
    assert replay.recall(make_context(2), prompts[1]) == []


def test_replay_revisits_prompts(make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]) -> None:
    replay = load_sampler("replay", {"revisit": 0.5})
    assert replay.candidates(4) == 4
    replay.observe(make_context(), [answered(f"p{i}", [1.0]) for i in (7, 8, 9)])
    assert replay.candidates(4) == 2
    chosen = replay.choose(make_context(2), prompts[:2], 4, {"p9": prompts[9]})
    assert [prompt.id for prompt in chosen][:2] == ["p0", "p1"]
    assert {prompt.id for prompt in chosen[2:]} == {"p7", "p8"}
    assert chosen == replay.choose(make_context(2), prompts[:2], 4, {"p9": prompts[9]})


def test_regenerate_answers_the_worst_anew(make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]) -> None:
    regenerate = load_sampler("regenerate", {"share": 0.5})
    groups = [answered(f"p{i}", [reward, reward]) for i, reward in enumerate((0.9, 0.1, 0.5, 0.3))]
    regenerate.choose(make_context(), prompts[:4], 4, {})
    assert all(regenerate.draw(make_context(), prompt, [Draw(2)]) == [Draw(2)] for prompt in prompts[:4])
    regenerate.observe(make_context(), groups)
    for sampler in (regenerate, through_a_checkpoint(regenerate)):
        assert sampler.choose(make_context(2), prompts[:5], 5, {}) == prompts[:5]
        drawn = [bool(sampler.draw(make_context(2), prompt, [Draw(2)])) for prompt in prompts[:5]]
        assert drawn == [False, True, False, True, True]
        given = [sampler.recall(make_context(2), prompt) for prompt in prompts[:5]]
        assert [len(one) for one in given] == [2, 0, 2, 0, 0]
        assert given[0][0].completion_ids == tuple(groups[0].rollouts[0].completion_ids.tolist())


def test_regenerate_keeps_the_answers_that_were_brought_again(
    make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]
) -> None:
    regenerate = load_sampler("regenerate", {"share": 0.0})
    regenerate.observe(make_context(), [answered("p0", [0.5, 0.5])])
    before = regenerate.state()["memory"]
    regenerate.observe(make_context(2), [answered("p0", [0.2, 0.2], source="replay")])
    assert regenerate.state()["rewards"] == {"p0": pytest.approx(0.2)}
    assert [one["ids"].tolist() for one in regenerate.state()["memory"]["p0"]] == [one["ids"].tolist() for one in before["p0"]]


def test_curriculum_takes_what_is_half_learned_first(
    make_context: MakeContext, prompts: list[Prompt], answered: Callable[..., Group]
) -> None:
    curriculum = load_sampler("curriculum", {"window": 3, "unseen": 0.8})
    assert curriculum.candidates(2) == 6
    rates = {"p0": 1.0, "p1": 0.0, "p2": 0.4, "p3": 0.6}
    curriculum.observe(make_context(), [answered(name, [rate]) for name, rate in rates.items()])
    for sampler in (curriculum, through_a_checkpoint(curriculum)):
        chosen = sampler.choose(make_context(2), prompts[:6], 6, {})
        assert [prompt.id for prompt in chosen] == ["p2", "p3", "p4", "p5", "p0", "p1"]


def test_curriculum_averages_over_visits(make_context: MakeContext, answered: Callable[..., Group]) -> None:
    curriculum = load_sampler("curriculum", {"decay": 0.75})
    for step, rewards in enumerate(([1.0, 0.0], [1.0, 1.0, None], [None, None]), start=1):
        curriculum.observe(make_context(step), [answered("p0", rewards, step)])
    curriculum.observe(make_context(4), [answered("p0", [0.0], 4, source="replay")])
    assert curriculum.state()["rates"] == {"p0": pytest.approx(0.75 * 0.5 + 0.25 * 1.0)}


class Probed:
    """Scores of the initial policy: prompt i is answered with reward i / 10 on average, odd ones have an absence too."""

    def __init__(self) -> None:
        self.calls = 0

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        raise AssertionError

    async def scores(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str) -> Sequence[Scores]:
        raise AssertionError

    async def probe(self, prompts: Sequence[Prompt], n: int) -> Mapping[str, Sequence[Scores]]:
        self.calls += 1
        none = Scores(None, "INFRASTRUCTURE")
        found = {p.id: [Scores(i / 10 + 0.05), Scores(i / 10 - 0.05) if i % 2 == 0 else none] for i, p in enumerate(prompts)}
        return found | {"p2": [none, none]}


async def test_preselect_goes_round_over_the_lowest(make_context: MakeContext, prompts: list[Prompt]) -> None:
    preselect = load_sampler("preselect", {"prompts": 9, "share": 0.5})
    mesh = Probed()
    await preselect.prepare(make_context(), mesh)
    await preselect.prepare(make_context(2), mesh)
    assert mesh.calls == 1
    lowest = {"p0", "p1", "p3", "p4"}  # p2 could not be ranked
    walked = [preselect.choose(make_context(step), prompts[5:7], 2, {}) for step in (1, 2)]
    assert {prompt.id for two in walked for prompt in two} == lowest
    other = through_a_checkpoint(preselect)
    for sampler in (preselect, other):
        assert {prompt.id for step in (3, 4) for prompt in sampler.choose(make_context(step), [], 2, {})} == lowest
    assert preselect.state() == other.state()
    taken = {"p0": prompts[0], "p1": prompts[1]}
    assert {prompt.id for prompt in preselect.choose(make_context(5), [], 4, taken)} == {"p3", "p4"}
