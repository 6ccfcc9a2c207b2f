"""The trainer's side of the mesh: generate, evaluate, reference log-probs, publish; and the waiting while a service is away.

Every call can be repeated: seeds fix what is sampled, and scores depend on the sample alone. So a service that is killed costs time, never
a sample: retryable absences are asked for again, with growing pauses, for as long as the recipe's patience lasts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential

from rewardmesh.client import (
    Absence,
    AbsenceReason,
    AsyncClient,
    CallFailed,
    Evaluations,
    Generation,
    generation_prompt,
    sample,
    token_sequence,
)
from rewardmesh.serving.logs import get_logger
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import FloatArray, IntArray, Rollout, Scores
from rewardmesh.v1.common_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP, ModelRef, Provenance
from rewardmesh.v1.generation_service_pb2 import GenerateRequest

log = get_logger(__name__)


class MeshUnavailable(Exception):
    """The mesh did not answer within the recipe's patience, or the program asks to abort; the run can be resumed."""


class _Away(Exception):
    """A retryable absence: worth asking again."""


@dataclass(frozen=True)
class Evaluated:
    """What the mesh said of one group."""

    scores: tuple[Scores, ...]
    preferences: np.ndarray[Any, np.dtype[np.float64]] | None
    attempts: tuple[int, ...]
    details: tuple[str | None, ...]


@dataclass(frozen=True)
class Sampled:
    """One completion, or why there is none."""

    rollout: Rollout
    absence: Absence | None


class Mesh:
    """Connections to the services of a recipe; make it inside the event loop that uses it.

    Attributes:
        requests: calls made, by service.
        absences: absences met, by (service, reason); those that a later attempt resolved are counted too.
        versions: model, version and fingerprint that last answered, by signal or service.
        policy: the version the generator samples from.
    """

    def __init__(self, recipe: Recipe) -> None:
        services = recipe.services
        self._recipe = recipe
        self._patience = recipe.patience
        self._gateway = AsyncClient(services.gateway, priority="TRAINING", timeout_s=self._patience.call_seconds)
        self._generation = AsyncClient(services.generation, priority="TRAINING", timeout_s=self._patience.generate_seconds)
        self._logprob = (
            AsyncClient(services.logprob, priority="TRAINING", timeout_s=self._patience.call_seconds) if services.logprob else None
        )
        self._verifier = (
            AsyncClient(services.verifier, priority="TRAINING", timeout_s=self._patience.call_seconds) if services.verifier else None
        )
        self._weights: Path | None = None
        self._signal_kinds: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.absences: Counter[tuple[str, str]] = Counter()
        self.versions: dict[str, dict[str, object]] = {}
        self.policy = ModelRef()

    async def close(self) -> None:
        """Close every connection."""
        for client in (self._gateway, self._generation, self._logprob, self._verifier):
            if client:
                await client.close()

    async def describe(self) -> str:
        """The reward program's text; waits until the gateway is there. Raises MeshUnavailable."""
        async for attempt in self._retrying("gateway"):
            with attempt:
                try:
                    reply = await self._gateway.describe_program(self._recipe.program)
                except CallFailed as failure:
                    raise _translated(failure) from failure
        self._signal_kinds = {signal.name: signal.kind for signal in reply.signals}
        return reply.yaml

    async def publish(self, weights: Path) -> ModelRef:
        """Make the generator sample from a version directory; returns the version that is active then.

        The number is the next that the generator does not have yet. Raises MeshUnavailable.
        """
        self._weights = weights
        async for attempt in self._retrying("generation"):
            with attempt:
                try:
                    known = await self._generation.list_versions()
                    number = max(self.policy.version, *(ref.version for ref in known.versions)) + 1
                    await self._generation.load_version(number, str(weights.resolve()))
                    reply = await self._generation.activate_version(number)
                    for ref in known.versions:
                        await self._generation.unload_version(ref.version)
                except CallFailed as failure:
                    raise _translated(failure) from failure
        self.policy = reply.active
        self._note("policy", Provenance(model=reply.active))
        return reply.active

    async def generate(
        self,
        prompts: Sequence[Prompt],
        on_group: Callable[[Prompt, list[Sampled]], None],
        *,
        n: int,
        temperature: float,
        seed: int,
        tag: str,
    ) -> None:
        """Sample n completions for each prompt; calls `on_group` as soon as all of a prompt's completions are there.

        Args:
            seed: fixes every completion together with its prompt's id.
            tag: prefix of group ids, unique to this call ("step-000012").

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
                async for item in self._generate_once(list(waiting.values()), n, temperature, seed):
                    if item.absence and item.absence.retryable:
                        lost = item.absence
                        continue
                    received[item.prompt_id][item.index] = item
                    if len(received[item.prompt_id]) == n and item.prompt_id in waiting:
                        prompt = waiting.pop(item.prompt_id)
                        on_group(prompt, _rollouts([received[prompt.id][i] for i in range(n)], prompt, f"{tag}/{prompt.id}"))
                if waiting:
                    raise _Away(f"generation: {lost.detail if lost else 'the stream ended early'}")

    async def _generate_once(self, prompts: Sequence[Prompt], n: int, temperature: float, seed: int) -> AsyncIterator[Generation]:
        request = GenerateRequest(
            policy=self.policy,
            prompts=[generation_prompt(prompt.id, prompt.messages) for prompt in prompts],
            n=n,
            temperature=temperature,
            max_tokens=self._recipe.sampling.max_tokens,
            seed=seed,
        )
        self.requests["generation"] += 1
        try:
            async for item in self._generation.generate(request):
                if item.absence:
                    self.absences["generation", item.absence.reason.value] += 1
                yield item
        except CallFailed as failure:
            if failure.code.name == "NOT_FOUND" and self._weights:
                # The generator was restarted and has only its first version: give it ours again.
                log.warning("generator lost the policy's version, publishing again", version=self.policy.version)
                await self.publish(self._weights)
                raise _Away(f"generation: {failure}") from failure
            raise _translated(failure) from failure

    async def evaluate(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> Evaluated:
        """Run the reward program over one group; asks again for what the program wants waited for. Raises MeshUnavailable."""
        samples = [
            sample(
                rollout.id,
                prompt.messages,
                rollout.text,
                group_id=rollout.group_id,
                references=prompt.references,
                tags=prompt.tags,
                prompt_ids=rollout.prompt_ids.tolist(),
                completion_ids=rollout.completion_ids.tolist(),
            )
            for rollout in rollouts
        ]
        tries = 0
        async for attempt in self._retrying("gateway"):
            with attempt:
                tries += 1
                self.requests["gateway"] += 1
                try:
                    reply = await self._gateway.evaluate(samples, program=self._recipe.program)
                except CallFailed as failure:
                    raise _translated(failure) from failure
                self._count(reply)
                for evaluation in reply.evaluations:
                    if evaluation.absence is None:
                        continue
                    if evaluation.advice.upper().endswith("ABORT"):
                        raise MeshUnavailable(f"the program aborts at sample {evaluation.sample_id}: {evaluation.absence.detail}")
                    unreachable = not evaluation.components and evaluation.absence.retryable
                    if unreachable or evaluation.advice.upper().endswith("WAIT"):
                        raise _Away(f"gateway: {evaluation.absence.reason.value}: {evaluation.absence.detail}")
        return _evaluated(reply, tries)

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        """Log-probabilities of the completions under the reference policy, float32 [T] each; None where the absence is final."""
        if self._logprob is None:
            return [None] * len(rollouts)
        sequences = [token_sequence(r.id, r.prompt_ids.tolist(), r.completion_ids.tolist()) for r in rollouts]
        async for attempt in self._retrying("logprob"):
            with attempt:
                self.requests["logprob"] += 1
                try:
                    scores = await self._logprob.score_tokens(
                        sequences, policies=[self._recipe.reference_policy], temperature=self._recipe.sampling.temperature
                    )
                except CallFailed as failure:
                    raise _translated(failure) from failure
                for score in scores:
                    if score.absence:
                        self.absences["logprob", score.absence.reason.value] += 1
                        if score.absence.retryable:
                            raise _Away(f"logprob: {score.absence.detail}")
                    else:
                        self._note("logprob", score.message.provenance)
        return [None if score.log_probs is None else np.asarray(score.log_probs, dtype=np.float32) for score in scores]

    async def verify(self, verifier: str, items: Sequence[tuple[Prompt, Rollout]]) -> list[tuple[float | None, str]]:
        """(score in [0, 1] or None, evidence) of each completion by a verifier."""
        if self._verifier is None:
            raise MeshUnavailable("services.verifier: is not set")
        samples = [sample(rollout.id, prompt.messages, rollout.text, references=prompt.references) for prompt, rollout in items]
        async for attempt in self._retrying("verifier"):
            with attempt:
                self.requests["verifier"] += 1
                try:
                    verdicts = await self._verifier.verify(samples, verifier)
                except CallFailed as failure:
                    raise _translated(failure) from failure
                for verdict in verdicts:
                    if verdict.absence:
                        self.absences["verifier", verdict.absence.reason.value] += 1
                        if verdict.absence.retryable and verdict.absence.reason != AbsenceReason.DEADLINE:
                            raise _Away(f"verifier: {verdict.absence.detail}")
        return [(v.value, v.absence.detail if v.absence else v.message.verdict.evidence) for v in verdicts]

    def _count(self, reply: Evaluations) -> None:
        attempts: Counter[str] = Counter()
        for evaluation in reply.evaluations:
            if evaluation.absence and not evaluation.components:
                self.absences["gateway", evaluation.absence.reason.value] += 1
            for name, component in evaluation.components.items():
                attempts[name] = max(attempts[name], component.message.attempts)
                if component.absence:
                    self.absences[name, component.absence.reason.value] += 1
                self._note(name, _provenance(component.message))
        self.requests.update(attempts)

    def _note(self, name: str, provenance: Provenance | None) -> None:
        if provenance and provenance.HasField("model"):
            ref = provenance.model
            self.versions[name] = {"model": ref.name, "version": ref.version, "fingerprint": ref.fingerprint}

    def _retrying(self, service: str) -> AsyncRetrying:
        def waited(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.warning("waiting for the mesh", service=service, attempt=state.attempt_number, reason=str(error))

        def gave_up(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            raise MeshUnavailable(f"{service} did not answer for {self._patience.wait_seconds:.0f} s (patience.wait_seconds): {error}")

        return AsyncRetrying(
            retry=retry_if_exception_type(_Away),
            wait=wait_exponential(multiplier=0.1, max=5.0),
            stop=stop_after_delay(self._patience.wait_seconds),
            before_sleep=waited,
            retry_error_callback=gave_up,
            reraise=False,
        )


def _translated(failure: CallFailed) -> Exception:
    """Away for what may pass, else the failure itself as something a person can act on."""
    if failure.code.name in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}:
        return _Away(str(failure))
    return MeshUnavailable(str(failure))


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


def _provenance(message: Any) -> Provenance | None:
    kind = message.WhichOneof("answer")
    if kind is None:
        return None
    if kind == "preferences":
        rows = message.preferences.outcomes
        return rows[0].provenance if rows else None
    provenance: Provenance = getattr(message, kind).provenance
    return provenance


def _evaluated(reply: Evaluations, tries: int) -> Evaluated:
    scores, attempts, details = [], [], []
    for evaluation in reply.evaluations:
        provenance: dict[str, dict[str, object]] = {}
        for name, component in evaluation.components.items():
            source = _provenance(component.message)
            if source is not None:
                provenance[name] = {
                    "service": source.service,
                    "model": source.model.name,
                    "version": source.model.version,
                    "fingerprint": source.model.fingerprint,
                    "replica": source.replica,
                    "cached": source.cached,
                    "queue_seconds": source.queue_seconds,
                    "compute_seconds": source.compute_seconds,
                }
        scores.append(
            Scores(
                reward=evaluation.value,
                absence=evaluation.absence.reason.value if evaluation.absence else None,
                advice=evaluation.advice,
                components={name: component.value for name, component in evaluation.components.items()},
                component_absences={n: c.absence.reason.value for n, c in evaluation.components.items() if c.absence},
                provenance=provenance,
            )
        )
        details.append(evaluation.absence.detail if evaluation.absence else None)
        attempts.append(tries)
    return Evaluated(tuple(scores), _preferences(reply), tuple(attempts), tuple(details))


def _preferences(reply: Evaluations) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """The pairwise probabilities of the group's samples, mean over the pairwise signals that said something; NaN where none did."""
    place = {evaluation.sample_id: i for i, evaluation in enumerate(reply.evaluations)}
    matrices = []
    for group in reply.groups:
        size = group.matrix.size
        known = np.frombuffer(group.matrix.probabilities.data, "<f4").astype(np.float64).reshape(size, size)
        whole = np.full((len(place), len(place)), np.nan)
        there = [place[sample_id] for sample_id in group.sample_ids]
        whole[np.ix_(there, there)] = known
        matrices.append(whole)
    if not matrices:
        return None
    stacked = np.stack(matrices)
    counted = (~np.isnan(stacked)).sum(axis=0)
    return np.where(counted > 0, np.nansum(stacked, axis=0) / np.maximum(counted, 1), np.nan)
