"""The trainer's side of the mesh: what the reward program, the reference policy and a verifier say of completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardmesh.client import AbsenceReason, CallFailed, Component, Evaluations, sample, token_sequence
from rewardmesh.trainer.calls import Away, MeshUnavailable, translated
from rewardmesh.trainer.credit.spans import Decode
from rewardmesh.trainer.dense_scores import Dense, dense_scores
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import FloatArray, Rollout, Scores
from rewardmesh.trainer.writers import Sampled, Writers
from rewardmesh.v1.common_pb2 import Provenance, Sample

__all__ = ["Evaluated", "Mesh", "MeshUnavailable", "Sampled"]


@dataclass(frozen=True)
class Evaluated:
    """What the mesh said of one group."""

    scores: tuple[Scores, ...]
    preferences: np.ndarray[Any, np.dtype[np.float64]] | None
    attempts: tuple[int, ...]
    details: tuple[str | None, ...]


class Mesh(Writers):
    """Every service of a recipe; make it inside the event loop that uses it.

    Attributes:
        decode: the policy's, by which token and span rewards are put on its tokens; None leaves them out of the scores.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.decode: Decode | None = None
        self._signal_kinds: dict[str, str] = {}

    async def describe(self) -> str:
        """The reward program's text; waits until the gateway is there. Raises MeshUnavailable."""
        async for attempt in self._retrying("gateway"):
            with attempt:
                try:
                    reply = await self._gateway.describe_program(self._recipe.program)
                except CallFailed as failure:
                    raise translated(failure) from failure
        self._signal_kinds = {signal.name: signal.kind for signal in reply.signals}
        return reply.yaml

    async def evaluate(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str = "") -> Evaluated:
        """Run the recipe's reward program, or the named one, over one group; asks again for what the program wants waited for.

        Raises MeshUnavailable.
        """
        samples = [_to_score(prompt, rollout) for rollout in rollouts]
        tries = 0
        async for attempt in self._retrying("gateway"):
            with attempt:
                tries += 1
                self.requests["gateway"] += 1
                try:
                    reply = await self._gateway.evaluate(samples, program=program or self._recipe.program)
                except CallFailed as failure:
                    raise translated(failure) from failure
                self._count(reply)
                for evaluation in reply.evaluations:
                    if evaluation.absence is None:
                        continue
                    if evaluation.advice.upper().endswith("ABORT"):
                        raise MeshUnavailable(f"the program aborts at sample {evaluation.sample_id}: {evaluation.absence.detail}")
                    unreachable = not evaluation.components and evaluation.absence.retryable
                    if unreachable or evaluation.advice.upper().endswith("WAIT"):
                        raise Away(f"gateway: {evaluation.absence.reason.value}: {evaluation.absence.detail}")
        try:
            dense = dense_scores(reply.evaluations, rollouts, self.decode) if self.decode else [(None, None)] * len(rollouts)
        except ValueError as error:
            raise MeshUnavailable(f"gateway: {error}") from error
        return _evaluated(reply, tries, dense)

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        """Log-probabilities of the completions under the reference policy, float32 [T] each; None where the absence is final."""
        return [values for (values,) in await self.log_probs(rollouts, [self._recipe.reference_policy])]

    async def log_probs(self, rollouts: Sequence[Rollout], policies: Sequence[str]) -> list[tuple[FloatArray | None, ...]]:
        """Log-probabilities of the completions under frozen policies, asked for in one call.

        Returns:
            For each rollout one float32 [T] a policy, in order; None where the absence is final. Raises MeshUnavailable.
        """
        if self._logprob is None:
            return [(None,) * len(policies)] * len(rollouts)
        sequences = [token_sequence(r.id, r.prompt_ids.tolist(), r.completion_ids.tolist()) for r in rollouts]
        async for attempt in self._retrying("logprob"):
            with attempt:
                self.requests["logprob"] += 1
                try:
                    scores = await self._logprob.score_tokens(sequences, policies=policies, temperature=self._recipe.sampling.temperature)
                except CallFailed as failure:
                    raise translated(failure) from failure
                for score in scores:
                    if score.absence:
                        self.absences["logprob", score.absence.reason.value] += 1
                        if score.absence.retryable:
                            raise Away(f"logprob: {score.absence.detail}")
                    else:
                        self._note("logprob", score.message.provenance)
        values = [None if score.log_probs is None else np.asarray(score.log_probs, dtype=np.float32) for score in scores]
        return [tuple(values[start : start + len(policies)]) for start in range(0, len(values), len(policies))]

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
                    raise translated(failure) from failure
                for verdict in verdicts:
                    if verdict.absence:
                        self.absences["verifier", verdict.absence.reason.value] += 1
                        if verdict.absence.retryable and verdict.absence.reason != AbsenceReason.DEADLINE:
                            raise Away(f"verifier: {verdict.absence.detail}")
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


def _to_score(prompt: Prompt, rollout: Rollout) -> Sample:
    """For the reward program a given beginning is part of the answer, as it is of its text."""
    cut = rollout.prompt_ids.size - rollout.prefix_tokens
    return sample(
        rollout.id,
        prompt.messages,
        rollout.text,
        group_id=rollout.group_id,
        references=prompt.references,
        tags=prompt.tags,
        prompt_ids=rollout.prompt_ids[:cut].tolist(),
        completion_ids=[*rollout.prompt_ids[cut:].tolist(), *rollout.completion_ids.tolist()],
    )


def _provenance(message: Any) -> Provenance | None:
    kind = message.WhichOneof("answer")
    if kind is None:
        return None
    if kind == "preferences":
        rows = message.preferences.outcomes
        return rows[0].provenance if rows else None
    provenance: Provenance = getattr(message, kind).provenance
    return provenance


def _evaluated(reply: Evaluations, tries: int, dense: Sequence[Dense]) -> Evaluated:
    scores, attempts, details = [], [], []
    for evaluation, (token_rewards, spans) in zip(reply.evaluations, dense, strict=True):
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
                token_rewards=token_rewards,
                spans=spans,
                spreads=_spreads(evaluation.components),
            )
        )
        details.append(evaluation.absence.detail if evaluation.absence else None)
        attempts.append(tries)
    return Evaluated(tuple(scores), _preferences(reply), tuple(attempts), tuple(details))


def _spreads(components: Mapping[str, Component]) -> dict[str, float]:
    """Standard deviation of each signal that a reward model with several members gave."""
    rewards = {name: component.message.reward.reward for name, component in components.items() if component.message.HasField("reward")}
    return {name: reward.spread.std for name, reward in rewards.items() if reward.HasField("spread")}


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
