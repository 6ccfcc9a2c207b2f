"""Who writes completions: versions of the policy at the generation service, and mixtures of two policies at the log-prob service.

The generation service samples from the active version. Versions that samplers draw from (the initial policy, earlier checkpoints) are held
beside it: they stay in the service's memory when a new policy is published, and are loaded again when the service was restarted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rewardmesh.client import Absence, AbsenceReason, AsyncClient, CallFailed, Generation, generation_prompt
from rewardmesh.serving.logs import get_logger
from rewardmesh.trainer.calls import Away, Calls, MeshUnavailable, translated
from rewardmesh.trainer.mixtures import Written, sample_mixture
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import IntArray, Rollout
from rewardmesh.v1.common_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP, ModelRef, Provenance
from rewardmesh.v1.generation_service_pb2 import GenerateRequest, GenerationPrompt

log = get_logger(__name__)

SIDE_BY_SIDE = 16
"""Mixtures sampled at a time; each takes two of the log-prob service's streams (64 by default)."""


@dataclass(frozen=True)
class Sampled:
    """One completion, or why there is none."""

    rollout: Rollout
    absence: Absence | None


@dataclass
class _Held:
    """A model directory that a service is to hold, and the version it has there; None before it is loaded."""

    path: Path
    ref: ModelRef = field(default_factory=ModelRef)


class Writers(Calls):
    """See the module.

    Attributes:
        policy: the version the generator samples from.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.policy = ModelRef()
        self._active: Path | None = None
        self._held: dict[int, _Held] = {}
        self._logits: _Held | None = None
        self._side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)

    async def publish(self, weights: Path) -> ModelRef:
        """Make the generator sample from a version directory; returns the version that is active then.

        The number is the next that the generator does not have yet. Versions that are not held are freed. Raises MeshUnavailable.
        """
        self._active = weights
        async for attempt in self._retrying("generation"):
            with attempt:
                try:
                    known = await self._generation.list_versions()
                    ref = await _load_next(self._generation, weights, at_least=self.policy.version + 1)
                    reply = await self._generation.activate_version(ref.version)
                    held = {one.ref.version for one in self._held.values()}
                    for old in known.versions:
                        if old.version not in held:
                            await self._generation.unload_version(old.version)
                except CallFailed as failure:
                    raise translated(failure) from failure
        self.policy = reply.active
        self._note("policy", Provenance(model=reply.active))
        return reply.active

    async def hold(self, policies: Mapping[int, Path]) -> None:
        """Hold these version directories, by the step after which each was the policy, and no others. Raises MeshUnavailable."""
        for step in set(self._held) - set(policies):
            gone = self._held.pop(step)
            try:
                await self._generation.unload_version(gone.ref.version)
            except CallFailed as failure:  # it is freed with the next publish, or was lost in a restart
                log.info("a held version was not freed", step=step, reason=str(failure))
        for step, path in policies.items():
            if step not in self._held:
                self._held[step] = _Held(path)
                await self._reload(self._held[step])

    async def publish_logits(self, weights: Path) -> None:
        """Load the policy at the log-prob service beside the reference, as an inactive version of it, for mixtures.

        Raises MeshUnavailable.
        """
        before, self._logits = self._logits, _Held(weights)
        await self._reload_logits(self._logits)
        if before and before.ref.version:
            try:
                await self._log_prob_client().unload_version(before.ref.version, name=self._recipe.reference_policy)
            except CallFailed as failure:
                log.info("a version at the log-prob service was not freed", reason=str(failure))

    async def generate(
        self,
        prompts: Sequence[Prompt],
        on_group: Callable[[Prompt, list[Sampled]], None],
        *,
        n: int,
        temperature: float,
        seed: int,
        tag: str,
        held: int | None = None,
        token_ids: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Sample n completions for each prompt; calls `on_group` as soon as all of a prompt's completions are there.

        Args:
            seed: fixes every completion together with its prompt's id.
            tag: prefix of group ids, unique to this call ("step-000012").
            held: sample from the held policy of that step; None for the active one.
            token_ids: by prompt id, tokens to go on from in place of the prompt's own.

        Raises:
            MeshUnavailable: patience is used up, or the request is wrong.
        """
        waiting = {prompt.id: prompt for prompt in prompts}
        if len(waiting) != len(prompts):
            raise ValueError("prompts of one generation must have distinct ids")
        received: dict[str, dict[int, Generation]] = {prompt.id: {} for prompt in prompts}
        async for attempt in self._retrying("generation"):
            with attempt:
                lost: Absence | None = None
                request = GenerateRequest(
                    policy=self.policy if held is None else self._held[held].ref,
                    prompts=[_asked(prompt, token_ids or {}) for prompt in waiting.values()],
                    n=n,
                    temperature=temperature,
                    max_tokens=self._recipe.sampling.max_tokens,
                    seed=seed,
                )
                async for item in self._generate_once(request, held):
                    if item.absence and item.absence.retryable:
                        lost = item.absence
                        continue
                    received[item.prompt_id][item.index] = item
                    if len(received[item.prompt_id]) == n and item.prompt_id in waiting:
                        prompt = waiting.pop(item.prompt_id)
                        on_group(prompt, _rollouts([received[prompt.id][i] for i in range(n)], prompt, f"{tag}/{prompt.id}"))
                if waiting:
                    raise Away(f"generation: {lost.detail if lost else 'the stream ended early'}")

    async def mix(
        self, prompt_ids: Sequence[int], key: str, *, reference_weight: float, seed: int, max_tokens: int, end_ids: Sequence[int]
    ) -> tuple[Written, int]:
        """One completion from the mixture of the published policy and the reference, and the policy's version.

        Args:
            key: fixes the completion together with the seed.

        Raises:
            MeshUnavailable: patience is used up, or `publish_logits` was not called.
        """
        if self._logits is None:
            raise MeshUnavailable("mixtures need the policy at the log-prob service")
        client = self._log_prob_client()
        reference = ModelRef(name=self._recipe.reference_policy)
        async with self._side_by_side:
            async for attempt in self._retrying("logprob"):
                with attempt:
                    self.requests["logprob"] += 1
                    try:
                        written = await sample_mixture(
                            client,
                            prompt_ids,
                            (self._logits.ref, reference),
                            (1 - reference_weight, reference_weight),
                            temperature=self._recipe.sampling.temperature,
                            max_tokens=max_tokens,
                            end_ids=end_ids,
                            rng=np.random.default_rng([seed, *key.encode()]),
                            timeout_s=self._patience.generate_seconds,
                        )
                    except CallFailed as failure:
                        if failure.code.name == "NOT_FOUND":
                            log.warning("the log-prob service lost the policy's version, publishing again")
                            await self._reload_logits(self._logits)
                            raise Away(f"logprob: {failure}") from failure
                        raise translated(failure) from failure
        return written, self.policy.version

    async def _generate_once(self, request: GenerateRequest, held: int | None) -> AsyncIterator[Generation]:
        self.requests["generation"] += 1
        try:
            async for item in self._generation.generate(request):
                if item.absence:
                    self.absences["generation", item.absence.reason.value] += 1
                yield item
        except CallFailed as failure:
            if failure.code.name == "NOT_FOUND" and self._active:
                # The generator was restarted and has only its first version: give it ours again.
                log.warning("generator lost a version, publishing again", version=request.policy.version)
                if held is None:
                    await self.publish(self._active)
                else:
                    await self._reload(self._held[held])
                raise Away(f"generation: {failure}") from failure
            raise translated(failure) from failure

    async def _reload(self, held: _Held) -> None:
        async for attempt in self._retrying("generation"):
            with attempt:
                try:
                    held.ref = await _load_next(self._generation, held.path)
                except CallFailed as failure:
                    raise translated(failure) from failure

    async def _reload_logits(self, held: _Held) -> None:
        name = self._recipe.reference_policy
        async for attempt in self._retrying("logprob"):
            with attempt:
                try:
                    held.ref = await _load_next(self._log_prob_client(), held.path, name=name)
                except CallFailed as failure:
                    raise translated(failure) from failure

    def _log_prob_client(self) -> AsyncClient:
        if self._logprob is None:
            raise MeshUnavailable("services.logprob: is not set")
        return self._logprob


async def _load_next(client: AsyncClient, weights: Path, *, name: str = "", at_least: int = 1) -> ModelRef:
    """Load a directory as the next version that the service does not have, without activating it."""
    known = await client.list_versions(name)
    number = max(at_least, *(ref.version + 1 for ref in known.versions))
    reply = await client.load_version(number, str(weights.resolve()), name=name)
    return reply.model


def _asked(prompt: Prompt, token_ids: Mapping[str, Sequence[int]]) -> GenerationPrompt:
    if prompt.id in token_ids:
        return generation_prompt(prompt.id, token_ids=token_ids[prompt.id])
    return generation_prompt(prompt.id, prompt.messages)


def _rollouts(items: Sequence[Generation], prompt: Prompt, group_id: str) -> list[Sampled]:
    """The completions of one prompt; the one with index 0 brings the prompt's token ids."""
    prompt_ids = np.frombuffer(items[0].message.prompt_token_ids.data, "<i4").astype(np.int32)
    return [_sampled(item, prompt, group_id, prompt_ids) for item in items]


def _sampled(item: Generation, prompt: Prompt, group_id: str, prompt_ids: IntArray) -> Sampled:
    completion = item.message.completion
    absence = item.absence
    if absence is None and not prompt_ids.size:
        absence = Absence(AbsenceReason.INFRASTRUCTURE, "the generator sent no prompt token ids")
    finish = {FINISH_REASON_STOP: "stop", FINISH_REASON_LENGTH: "length"}.get(completion.finish_reason, "aborted")
    rollout = Rollout(
        id=f"{group_id}/{item.index}",
        group_id=group_id,
        prompt_ids=prompt_ids if prompt_ids.size else np.zeros(1, np.int32),
        completion_ids=np.frombuffer(b"" if absence else completion.token_ids.data, "<i4").astype(np.int32),
        sampling_log_probs=np.frombuffer(b"" if absence else completion.sampling_log_probs.data, "<f4").astype(np.float32),
        text=completion.text,
        prompt_text=prompt.text,
        finish_reason="aborted" if absence else finish,
        policy_version=completion.policy.version,
    )
    return Sampled(rollout, absence)
