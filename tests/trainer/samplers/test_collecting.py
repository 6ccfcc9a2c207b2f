"""From samplers to groups, with a mesh that writes and scores by rule: seeds, places, prefixes, rounds, and what is not asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardmesh.client import Absence, AbsenceReason
from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.mesh import Evaluated, Sampled
from rewardmesh.trainer.mixtures import Written
from rewardmesh.trainer.prompts import Prompt, PromptSet, PromptSource
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samplers import SamplerChain
from rewardmesh.trainer.samples import FloatArray, Rollout, Scores
from rewardmesh.trainer.step import Collected, Collector, step_seed
from rewardmesh.trainer.tracking import describe

Reward = Callable[[Prompt, Rollout, int], float | None]


class RuleMesh:
    """Completions are two random letters; calls are written down."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.generated: list[dict[str, Any]] = []
        self.mixed: list[float] = []
        self.evaluated: list[str] = []
        self.resampled: set[str] = set()
        self.asked: list[list[str]] = []

    async def generate(self, prompts: Sequence[Prompt], on_group: Any, **options: Any) -> None:
        self.generated.append({"prompts": [prompt.id for prompt in prompts], **options})
        for prompt in prompts:
            await asyncio.sleep(0)
            rng = np.random.default_rng([options["seed"], *prompt.id.encode()])
            ids = rng.integers(97, 123, (options["n"], 2))
            told = options.get("token_ids") or {}
            group = f"{options['tag']}/{prompt.id}"
            on_group(prompt, [_sampled(f"{group}/{i}", group, told.get(prompt.id, [5, 6]), row) for i, row in enumerate(ids)])

    async def mix(self, prompt_ids: Sequence[int], key: str, *, reference_weight: float, **_: Any) -> tuple[Written, int]:
        self.mixed.append(reference_weight)
        return Written([120, 0], np.array([-0.5, -0.25], np.float32), "stop"), 7

    async def evaluate(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str = "") -> Evaluated:
        self.evaluated += [rollout.id for rollout in rollouts]
        again = prompt.id in self.resampled
        self.resampled.discard(prompt.id)
        scores = []
        for place, rollout in enumerate(rollouts):
            value = None if again and place == 0 else self.reward(prompt, rollout, place)
            scores.append(Scores(value, None if value is not None else "UNPARSABLE", "RESAMPLE" if again and place == 0 else ""))
        return Evaluated(tuple(scores), np.full((len(rollouts),) * 2, 0.5), (1,) * len(rollouts), (None,) * len(rollouts))

    async def log_probs(self, rollouts: Sequence[Rollout], policies: Sequence[str]) -> list[tuple[FloatArray | None, ...]]:
        self.asked.append(list(policies))
        shift = {"reference": 0.5, "guide": 0.25}
        return [tuple(rollout.sampling_log_probs - np.float32(shift[policy]) for policy in policies) for rollout in rollouts]


def _sampled(id_: str, group: str, prompt_ids: Sequence[int], ids: Any) -> Sampled:
    text = "".join(map(chr, ids))
    log_probs = np.asarray(ids, np.float32) / np.float32(-100)
    return Sampled(Rollout(id_, group, np.array(prompt_ids, np.int32), np.array(ids, np.int32), log_probs, text, "q", "stop", 3), None)


@pytest.fixture
def collect(tmp_path: Path, prompts: list[Prompt], make_context: Any) -> Callable[..., Any]:
    """collect(samplers, reward, steps=1, mesh=None, size=3, completions=4, **of the recipe): (mesh, [Collected])."""
    import json

    path = tmp_path / "prompts.jsonl"
    lines = [{"id": p.id, "prompt": p.messages[0][1], "demonstrations": p.demonstrations} for p in prompts]
    path.write_text("\n".join(map(json.dumps, lines)))

    async def run(
        samplers: Sequence[Mapping[str, Any]],
        reward: Reward,
        *,
        steps: int = 1,
        mesh: Any = None,
        size: int = 3,
        completions: int = 4,
        **more: Any,
    ) -> tuple[Any, list[Collected]]:
        recipe = Recipe.parse(
            {
                "run_dir": tmp_path,
                "policy": "p",
                "prompts": {"path": path},
                "services": {"gateway": "a", "generation": "b", "logprob": "c"},
                "algorithm": {"name": "online_dpo"},
                "samplers": samplers,
                "sampling": {"prompts_per_step": size, "completions": completions},
                **more,
            }
        )
        mesh = mesh or RuleMesh(reward)
        collector = Collector(
            mesh,
            recipe,
            SamplerChain(recipe.make_samplers()),
            PromptSet(PromptSource(path=path), 0),
            make_context().codec,
            reference=recipe.make_algorithm().needs_reference,
            log_probs=lambda rollouts: [np.full(rollout.length, -0.125, np.float32) for rollout in rollouts],
        )
        return mesh, [await collector.collect(step) for step in range(1, steps + 1)]

    return run


def random_reward(prompt: Prompt, rollout: Rollout, place: int) -> float:
    return float(rollout.completion_ids[0]) / 200


async def test_without_samplers_one_call_draws_everything(collect: Any) -> None:
    mesh, (first, second) = await collect([], random_reward, steps=2)
    assert [call["seed"] for call in mesh.generated] == [step_seed(0, 1), step_seed(0, 2)]
    assert [call["n"] for call in mesh.generated] == [4, 4]
    assert first.learned == first.groups
    ids = {group.prompt_id for group in first.groups} | {group.prompt_id for group in second.groups}
    assert len(ids) == 6
    assert first.metrics == {"source/policy": 12.0, "rounds": 1.0}


async def test_several_writers_make_one_group(collect: Any) -> None:
    samplers = [{"name": "opponent", "source": "reference"}, {"name": "mixture", "reference_weight": 0.25}, {"name": "greedy"}]
    mesh, (collected,) = await collect(samplers, random_reward)
    calls = {(call["n"], call["temperature"], call["held"]): call["seed"] for call in mesh.generated}
    assert set(calls) == {(2, 1.0, None), (1, 1.0, 0), (1, 0.0, None)}
    assert len(set(calls.values())) == 3
    assert mesh.mixed == [0.25] * 3
    for group in collected.groups:
        assert [rollout.id for rollout in group.rollouts] == [f"{group.id}/{i}" for i in range(5)]
        assert [rollout.source for rollout in group.rollouts] == ["policy", "policy", "reference", "mixture", "greedy"]
        assert group.rollouts[3].policy_version == 7
        np.testing.assert_array_equal(group.rollouts[3].sampling_log_probs, np.array([-0.5, -0.25], np.float32))
    metrics = describe(collected)
    assert metrics["source/policy"] == 6
    own = [scores.reward for group in collected.groups for scores in group.scores[:2]]
    assert metrics["reward_mean"] == pytest.approx(np.mean(own))
    assert metrics["kl"] == pytest.approx(1.0)  # two tokens, half a nat each


async def test_a_prefix_is_the_prompts_for_the_policy_and_the_answers_for_the_text(collect: Any, make_context: Any) -> None:
    mesh, (collected,) = await collect([{"name": "reset", "probability": 1.0}], random_reward)
    codec = make_context().codec
    for group in collected.groups:
        for rollout in group.rollouts:
            assert rollout.prefix_tokens > 0
            prefix = rollout.prompt_ids[-rollout.prefix_tokens :].tolist()
            assert rollout.text == codec.decode(prefix) + codec.decode(rollout.completion_ids.tolist())
            assert f"worked answer {group.prompt_id[1:]}".startswith(codec.decode(prefix))
        assert len({rollout.prefix_tokens for rollout in group.rollouts}) == 1
    assert set(mesh.generated[0]["token_ids"]) == {group.prompt_id for group in collected.groups}


async def test_a_demonstration_has_the_policys_log_probs(collect: Any) -> None:
    mesh, (collected,) = await collect([{"name": "spin"}], random_reward)
    assert mesh.generated[0]["held"] == 0
    for group, kept in zip(collected.groups, collected.learned, strict=True):
        shown = group.rollouts[-1]
        assert shown.source == "demonstration"
        assert shown.text == f"worked answer {group.prompt_id[1:]}"
        np.testing.assert_array_equal(shown.sampling_log_probs, np.full(shown.length, -0.125, np.float32))
        assert kept.preferences is not None
        assert (kept.preferences[4, :4] == 1).all()
        assert group.preferences is not None
        assert group.preferences[4, 0] == 0.5  # the ledger's group is as it was judged


async def test_what_is_not_selected_is_not_scored(collect: Any) -> None:
    mesh, (collected,) = await collect([{"name": "uncertain", "judge": 2}], random_reward)
    assert len(mesh.evaluated) == 6
    absences = [scores.absence for group in collected.groups for scores in group.scores if scores.reward is None]
    assert absences == ["NOT_SELECTED"] * 6
    metrics = describe(collected)
    assert (metrics["reward_present"], metrics["reward_absent"], metrics["reward_not_selected"]) == (6, 0, 6)
    assert metrics["absences/selection/NOT_SELECTED"] == 6
    for group, details in zip(collected.groups, collected.details, strict=True):
        assert group.preferences is not None
        assert np.isnan(group.preferences[[s.reward is None for s in group.scores]]).all()
        assert [detail is None for detail in details] == [scores.reward is not None for scores in group.scores]


async def test_dynamic_draws_until_there_are_enough(collect: Any) -> None:
    def reward(prompt: Prompt, rollout: Rollout, place: int) -> float:
        return float(place % 2) if int(prompt.id[1:]) % 3 == 0 else 1.0

    mesh, (collected,) = await collect([{"name": "dynamic", "rounds": 9}], reward)
    assert len(collected.learned) == 3
    assert all(int(group.prompt_id[1:]) % 3 == 0 for group in collected.learned)
    assert len({group.prompt_id for group in collected.groups}) == len(collected.groups)
    assert sum(len(call["prompts"]) for call in mesh.generated) == len(collected.groups) == len(collected.attempts)
    assert collected.metrics["sampler/dynamic/groups_dropped"] == len(collected.groups) - 3


async def test_dynamic_gives_up_after_its_rounds_or_when_all_prompts_are_used(collect: Any) -> None:
    def one(prompt: Prompt, rollout: Rollout, place: int) -> float:
        return 1.0

    mesh, (collected,) = await collect([{"name": "dynamic", "rounds": 2}], one)
    assert (len(mesh.generated), len(collected.groups), collected.learned) == (2, 6, [])
    mesh, (collected,) = await collect([{"name": "dynamic", "rounds": 50}], one, size=5)
    assert len(collected.groups) == 12


async def test_replays_join_their_prompts(collect: Any) -> None:
    def reward(prompt: Prompt, rollout: Rollout, place: int) -> float:
        return 1.0 if place == 1 else 0.0

    _, (first, second) = await collect([{"name": "replay", "n": 1, "revisit": 0.5}], reward, steps=2, size=4)
    known = {group.prompt_id: group.rollouts[1] for group in first.groups}
    replayed = [rollout for group in second.groups for rollout in group.rollouts if rollout.source == "replay"]
    assert len(replayed) == 2
    assert len(second.groups) == 4
    for group in second.groups:
        for rollout in group.rollouts[4:]:
            old = known[group.prompt_id]
            np.testing.assert_array_equal(rollout.completion_ids, old.completion_ids)
            np.testing.assert_array_equal(rollout.sampling_log_probs, old.sampling_log_probs)
            assert (rollout.id, rollout.policy_version) == (f"{group.id}/4", old.policy_version)


async def test_old_answers_without_new_ones_make_a_group(collect: Any) -> None:
    mesh, collected = await collect([{"name": "regenerate", "share": 0.0}], random_reward, steps=4, size=6, completions=2)
    assert [len(call["prompts"]) for call in mesh.generated] == [6, 6]
    assert {rollout.source for group in collected[2].groups for rollout in group.rollouts} == {"replay"}
    assert len({rollout.id for one in collected for group in one.groups for rollout in group.rollouts}) == 4 * 6 * 2


async def test_preselect_asks_before_it_chooses(collect: Any) -> None:
    def reward(prompt: Prompt, rollout: Rollout, place: int) -> float:
        return int(prompt.id[1:]) / 12

    mesh, collected = await collect([{"name": "preselect", "share": 0.5}], reward, steps=2)
    assert mesh.generated[0]["tag"] == "probe-000001"
    assert len(mesh.generated[0]["prompts"]) == 12
    assert {group.prompt_id for one in collected for group in one.groups} == {f"p{i}" for i in range(6)}


async def test_only_the_sample_that_is_to_be_resampled_is(collect: Any) -> None:
    mesh = RuleMesh(random_reward)
    mesh.resampled = {f"p{i}" for i in range(12)}
    _, (collected,) = await collect([{"name": "opponent"}], random_reward, mesh=mesh)
    plain, (before,) = await collect([{"name": "opponent"}], random_reward)
    assert len(plain.generated) == 2
    assert len(mesh.generated) == 2 + 3 * 2
    for group, other in zip(collected.groups, before.groups, strict=True):
        same = [np.array_equal(a.completion_ids, b.completion_ids) for a, b in zip(group.rollouts, other.rollouts, strict=True)]
        assert same[1:] == [True, True, True]
        assert not same[0]
        assert all(scores.reward is not None for scores in group.scores)


async def test_a_failure_of_one_call_ends_the_others(collect: Any) -> None:
    class Broken(RuleMesh):
        ended = False

        async def mix(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no such policy")

        async def generate(self, prompts: Sequence[Prompt], on_group: Any, **options: Any) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                self.ended = True

    mesh = Broken(random_reward)
    with pytest.raises(RuntimeError, match="no such policy"):
        await collect([{"name": "mixture"}], random_reward, mesh=mesh)
    assert mesh.ended


async def test_an_unwritten_completion_keeps_the_generators_absence(collect: Any) -> None:
    class Losing(RuleMesh):
        async def generate(self, prompts: Sequence[Prompt], on_group: Any, **options: Any) -> None:
            def lose(prompt: Prompt, items: list[Sampled]) -> None:
                gone = items[0].rollout
                lost = Rollout(
                    gone.id, gone.group_id, gone.prompt_ids, np.zeros(0, np.int32), np.zeros(0, np.float32), "", "q", "aborted", 3
                )
                on_group(prompt, [Sampled(lost, Absence(AbsenceReason.TOO_LONG, "no room")), *items[1:]])

            await super().generate(prompts, lose, **options)

    _, (collected,) = await collect([{"name": "uncertain", "judge": 2}], random_reward, mesh=Losing(random_reward))
    for group, details in zip(collected.groups, collected.details, strict=True):
        assert group.scores[0].absence == "TOO_LONG"
        assert details[0] == "no room"
        assert sum(scores.absence == "NOT_SELECTED" for scores in group.scores) == 1
    assert describe(collected)["reward_absent"] == 3


async def test_a_guide_is_asked_with_the_reference_and_pays_the_tokens(collect: Any) -> None:
    """The guide is 0.25 nats a token above the reference, whatever the algorithm wants of the reference."""
    for algorithm in ("online_dpo", "simpo"):
        mesh, (collected,) = await collect([], random_reward, guide_policy="guide", algorithm={"name": algorithm})
        assert mesh.asked == [["reference", "guide"]] * 3
        for group in collected.groups:
            for rollout, scores, reference in zip(group.rollouts, group.scores, group.reference_log_probs, strict=True):
                np.testing.assert_allclose(scores.token_rewards, [0.25] * rollout.length, rtol=1e-6)
                np.testing.assert_array_equal(reference, rollout.sampling_log_probs - np.float32(0.5))
    mesh, (collected,) = await collect([], random_reward)
    assert mesh.asked == [["reference"]] * 3
    assert all(scores.token_rewards is None for group in collected.groups for scores in group.scores)


async def test_without_an_answer_of_the_guide_there_are_no_token_rewards(collect: Any) -> None:
    class Halting(RuleMesh):
        async def log_probs(self, rollouts: Sequence[Rollout], policies: Sequence[str]) -> list[tuple[FloatArray | None, ...]]:
            found = await super().log_probs(rollouts, policies)
            return [(found[0][0], None), (None, found[1][1]), *found[2:]]

    _, (collected,) = await collect([], random_reward, mesh=Halting(random_reward), guide_policy="guide")
    for group in collected.groups:
        assert [scores.token_rewards is None for scores in group.scores] == [True, True, False, False]
        assert all(scores.reward is not None for scores in group.scores)


async def test_a_guide_needs_a_log_prob_service(collect: Any) -> None:
    services = {"gateway": "a", "generation": "b"}
    with pytest.raises(ConfigError, match=r"services\.logprob: guide_policy needs"):
        await collect([], random_reward, guide_policy="guide", algorithm={"name": "simpo"}, services=services)
